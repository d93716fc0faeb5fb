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

device=cuda:0 program= scratch= only=1.1b,8b,8b-q4,sd
while [ $# -gt 0 ]; do
    case "$1" in
        --device) device=$2; shift 2 ;;
        --program) program=$2; shift 2 ;;
        --scratch) scratch=$2; shift 2 ;;
        --only) only=$2; shift 2 ;;
        *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
done
features=(); [ "$device" != cpu ] && features=(--features cuda)
if [ -z "$program" ]; then
    cargo build --release "${features[@]}"
    program=target/release/loradeck
fi
[ -n "$scratch" ] || { scratch=$(mktemp -d "${TMPDIR:-/tmp}/loradeck-bench.XXXXXX"); trap 'rm -rf "$scratch"' EXIT; }
mkdir -p "$scratch" benches/results
repeats=3
wants() { case ",$only," in *",$1,"*) return 0 ;; *) return 1 ;; esac; }
base() { # shape: its folder, written once
    [ -e "$scratch/$1/model.safetensors" ] || python3 tests/tools/make_random_llama.py --shape "$1" "$scratch/$1"
}
compare() { # name, shape, batch x length, further arguments...
    local name=$1 shape=$2 sizes=$3; shift 3
    base "$shape"
    echo "$name: $shape, $sizes"
    python3 benches/compare_peft.py --device "$device" --loradeck "$program" --base "$scratch/$shape" --shapes "$sizes" \
        --checkpointing on --rank 16 --targets all-linear --repeats "$repeats" --json "$@" >"$scratch/result-$name.json"
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
        python3 benches/compare_diffusers_gpu.py --device "$device" --loradeck "$program" --scratch "$scratch/sd" --json >"$scratch/result-sd.json"
    else
        echo "sd: left out, diffusers is not installed"
    fi
fi
python3 tests/tools/gpu_results.py --device "$device" --program "$program" --output benches/results "$scratch"/result-*.json
