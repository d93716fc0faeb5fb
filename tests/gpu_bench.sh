#!/bin/bash
# Measures loradeck against transformers + PEFT, and diffusers where it is there, on a machine with a GPU.
#
#   tests/gpu_bench.sh [--device cuda:0] [--program FILE] [--scratch DIR] [--only 1.1b,8b,8b-q4,sd]
#
# Bases have random weights: nothing is fetched. Needs python3 with torch, transformers and peft (bitsandbytes for
# the other side of 8b-q4, diffusers for sd), 20 GB in the scratch folder and about as much memory.
# Writes benches/results/gpu-NAME-DATE.json and .md. `--device cpu --only tiny` tries the script itself.
set -euo pipefail
cd "$(dirname "$0")/.."

device=cuda:0 program='' scratch='' only=1.1b,8b,8b-q4,sd
fail() { echo "gpu_bench.sh: $1" >&2; exit 2; }
while [ $# -gt 0 ]; do
    case "$1" in
        --device | --program | --scratch | --only) [ $# -gt 1 ] || fail "$1 needs a value after it" ;;
    esac
    case "$1" in
        --device) device=$2; shift 2 ;;
        --program) program=$2; shift 2 ;;
        --scratch) scratch=$2; shift 2 ;;
        --only) only=$2; shift 2 ;;
        *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
done
[ -z "$program" ] || [ -x "$program" ] || fail "$program is no program that can be started: build it, or name another"
python3 -c 'import torch, transformers, peft' 2>/dev/null ||
    fail "python3 here does not have torch, transformers and peft, which loradeck is measured against: put theirs first on the PATH"
if [ "$device" != cpu ]; then
    python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
        fail "PyTorch finds no GPU here; on a machine without one, --device cpu --only tiny tries the script itself"
fi
features=(); [ "$device" != cpu ] && features=(--features cuda)
if [ -z "$program" ]; then
    cargo build --release "${features[@]}"
    program=target/release/loradeck
fi
[ -n "$scratch" ] || { scratch=$(mktemp -d "${TMPDIR:-/tmp}/loradeck-bench.XXXXXX"); trap 'rm -rf "$scratch"' EXIT; }
mkdir -p "$scratch" benches/results
repeats=3 failed=0
wants() { case ",$only," in *",$1,"*) return 0 ;; *) return 1 ;; esac; }
base() { # shape: its folder, written once
    [ -e "$scratch/$1/model.safetensors" ] || python3 tests/tools/make_random_llama.py --shape "$1" "$scratch/$1"
}
measure() { # name, command...: its JSON is a result once it is whole; one that fails is left out
    local name=$1; shift
    if "$@" >"$scratch/$name.unfinished"; then
        mv "$scratch/$name.unfinished" "$scratch/result-$name.json"
    else
        echo "$name: FAILED, and left out"; failed=1
    fi
}
compare() { # name, shape, batch x length, further arguments...
    local name=$1 shape=$2 sizes=$3; shift 3
    base "$shape"
    echo "$name: $shape, $sizes"
    measure "$name" python3 benches/compare_peft.py --device "$device" --loradeck "$program" --base "$scratch/$shape" \
        --shapes "$sizes" --checkpointing on --rank 16 --targets all-linear --repeats "$repeats" --json "$@"
}
wants tiny && compare tiny tiny 2x64 --steps 2
wants 1.1b && compare 1.1b 1.1b 4x1024,1x4096 --steps 10 --warmup 3
wants 8b && compare 8b 8b 4x1024,1x4096 --steps 5 --warmup 2
if wants 8b-q4; then
    if python3 -c 'import bitsandbytes' 2>/dev/null; then other=(); else other=(--without-peft); fi
    compare 8b-q4 8b 4x1024,1x4096 --steps 5 --warmup 2 --quantize q4_k "${other[@]}"
fi
if wants sd; then
    if python3 -c 'import diffusers' 2>/dev/null; then
        measure sd python3 benches/compare_diffusers_gpu.py --device "$device" --loradeck "$program" \
            --scratch "$scratch/sd" --json
    else
        echo "sd: left out, diffusers is not installed"
    fi
fi
shopt -s nullglob
results=("$scratch"/result-*.json)
[ ${#results[@]} -gt 0 ] || fail "nothing was measured"
python3 tests/tools/gpu_results.py --device "$device" --program "$program" --output benches/results "${results[@]}"
exit "$failed"
