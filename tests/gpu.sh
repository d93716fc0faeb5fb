#!/bin/bash
# Settles on one machine with a GPU whether loradeck computes right there. Minutes; no network.
#
#   tests/gpu.sh [--device cuda:0] [--program FILE] [--tests FILE] [--big]
#
# On a machine with a CUDA toolkit nothing else is needed. Otherwise build elsewhere and carry two files:
#   cargo build --release --features cuda                      -> target/release/loradeck      (--program)
#   cargo test --release --features cuda --lib --no-run        -> target/release/deps/loradeck-*  (--tests)
# --big also runs out of memory on purpose, with a base of 2.2 GB (random weights; needs numpy).
# --device cpu tries the script itself: the kernels are emulated, and what needs a GPU is said to be skipped.
#
# Prints a line per check; the exit code is the number of those that failed.
# shellcheck disable=SC2329 # Functions are called through `check`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

device=cuda:0 program='' tests='' big=''
fail() { echo "gpu.sh: $1" >&2; exit 2; }
while [ $# -gt 0 ]; do
    case "$1" in
        --device | --program | --tests) [ $# -gt 1 ] || fail "$1 needs a value after it" ;;
    esac
    case "$1" in
        --device) device=$2; shift 2 ;;
        --program) program=$2; shift 2 ;;
        --tests) tests=$2; shift 2 ;;
        --big) big=1; shift ;;
        *) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
done
case "$device" in
    cpu) gpu='' ;;
    cuda:[0-9]*) gpu=1 ;;
    *) fail "--device $device: name a GPU as cuda:N, or cpu to try the script itself" ;;
esac
command -v python3 >/dev/null || fail "python3 compares the runs, and is not on the PATH"
for file in "$program" "$tests"; do
    [ -z "$file" ] || [ -x "$file" ] || fail "$file is no program that can be started: build it, or name another"
done
if [ -n "$gpu" ]; then
    nvidia-smi -L >/dev/null 2>&1 ||
        fail "no GPU answers here (nvidia-smi does not); on a machine without one, --device cpu tries the script itself"
fi
features=(); [ -n "$gpu" ] && features=(--features cuda)
if [ -z "$program" ]; then
    cargo build --release "${features[@]}" || exit 1
    program=target/release/loradeck
fi
if [ -z "$tests" ]; then
    tests=$(cargo test --release "${features[@]}" --lib --no-run --message-format json | python3 -c '
import json, sys
for line in sys.stdin:
    told = json.loads(line)
    if told.get("executable") and told.get("profile", {}).get("test"):
        print(told["executable"])') || exit 1
fi
program=$(realpath "$program") tests=$(realpath "$tests")
scratch=$(mktemp -d "${TMPDIR:-/tmp}/loradeck-gpu.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
failed=0
check() { # name, command...
    local name=$1 log="$scratch/log"; shift
    if "$@" >"$log" 2>&1; then
        echo "ok       $name$(grep -h '^figure: ' "$log" | sed 's/^figure: /  /' | tr '\n' ' ')"
    else
        echo "FAILED   $name"; sed 's/^/         /' "$log" | tail -30; failed=$((failed + 1))
    fi
}
skip() { echo "skipped  $1 (no GPU)"; }
tool() { python3 tests/tools/gpu_check.py "$@"; }

echo "loradeck $("$program" --version | cut -d' ' -f2), $device, $(date -u +%FT%TZ)"
if [ -n "$gpu" ]; then
    nvidia-smi --query-gpu=index,name,driver_version,memory.total --format=csv,noheader || exit 1
fi
check "doctor" "$program" doctor

# Every operation, forward and backward, against its twin on the CPU: f32, bf16 and f16, odd sizes,
# poisoned outputs. On one thread: all work of a process is on one stream.
ops() {
    if [ -n "$gpu" ]; then
        LORADECK_TEST_DEVICE=$device "$tests" ops::cuda --test-threads 1
    else
        "$tests" ops::cuda
    fi
}
check "operations against the CPU" ops

demo() { # folder, settings...
    local folder=$1; shift
    "$program" train configs/demo.yaml --headless --set "output_dir=$folder" --set max_steps=30 --set eval_steps=1000 \
        --set sample_steps=1000 --set save_steps=10 "$@"
}
curves() { # precision, tolerance
    demo "$scratch/$1" --set "device=$device" --set "precision=$1" || return 1
    tool curves "$scratch/reference" "$scratch/$1" "$2"
}
check "30 steps on the CPU" demo "$scratch/reference" --set device=cpu
check "30 steps in f32 follow the CPU's losses" curves f32 0.001
if [ -n "$gpu" ]; then check "30 steps in bf16 follow the CPU's losses" curves bf16 0.03; else skip "30 steps in bf16"; fi

# Killed without a word in the middle, resumed: the same adapter, bit for bit.
killed() {
    local precision=$1
    demo "$scratch/whole-$precision" --set "device=$device" --set "precision=$precision" || return 1
    demo "$scratch/killed-$precision" --set "device=$device" --set "precision=$precision" &
    local shell=$! pid
    tool wait-for-step "$scratch/killed-$precision" 12 || return 1
    pid=$(pgrep -P "$shell") || return 1
    kill -KILL "$pid"
    wait "$shell" 2>/dev/null
    if [ -n "$gpu" ]; then tool process-gone "$pid" || return 1; fi
    demo "$scratch/killed-$precision" --set "device=$device" --set "precision=$precision" || return 1
    tool same-files "$scratch/whole-$precision/exports" "$scratch/killed-$precision/exports"
}
check "killed at a step and resumed, f32" killed f32
if [ -n "$gpu" ]; then check "killed at a step and resumed, bf16" killed bf16; else skip "killed and resumed, bf16"; fi

if [ -n "$gpu" ]; then
    check "the driver's readings are nvidia-smi's" tool readings "$program" "$scratch" "$device"
else
    skip "the driver's readings"
fi

# More than the GPU's memory: the run makes its pieces smaller, says so, and goes on.
out_of_memory() {
    python3 tests/tools/make_random_llama.py --shape 1.1b "$scratch/base" || return 1
    tool records "$scratch/data" 600 2048 || return 1
    printf '%s\n' "base_model: $scratch/base" "train_data_dir: $scratch/data" "output_dir: $scratch/oom" "device: $device" \
        "batch_size: 256" "sequence_len: 2048" "max_steps: 2" "gradient_checkpointing: false" "eval_split: 0" \
        "train_on_inputs: true" "on_oom: shrink" >"$scratch/oom.yaml"
    "$program" train "$scratch/oom.yaml" --headless || return 1
    tool message "$scratch/oom" "memory ran out"
}
if [ -z "$gpu" ]; then skip "out of memory"
elif [ -n "$big" ]; then check "out of memory makes smaller pieces" out_of_memory
else echo "skipped  out of memory (--big)"; fi

echo "$failed failed"
exit "$failed"
