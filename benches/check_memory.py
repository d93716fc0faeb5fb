"""Holds the memory estimate of `loradeck check` against the measured peak (VmHWM) of `loradeck bench`.

    cargo build --release
    python benches/check_memory.py          # exit code 1 when an estimate is more than 15 % off

Five configs: with and without recomputation, few and many adapted linears, short and long rows, a tiny
base and SmolLM2-135M (`sh tests/tools/fetch_smollm2.sh models`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from compare_peft import ROOT, write_records

SMOLLM2 = ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
SMALL = "[q_proj, v_proj]"
# base, batch_size, sequence_len, target_modules, gradient_checkpointing
CONFIGS = [
    (SMOLLM2, 4, 256, SMALL, False),
    (SMOLLM2, 4, 256, SMALL, True),
    (SMOLLM2, 1, 1024, "all-linear", False),
    (SMOLLM2, 2, 2048, "[q_proj, k_proj, v_proj, o_proj]", True),
    ("builtin:tiny-llama", 16, 512, "all-linear", False),
]


def run(*command: object) -> dict:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-500:]}{done.stderr[-1500:]}")
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loradeck", type=Path, default=ROOT / "target/release/loradeck", help="the program")
    parser.add_argument("--tolerance", type=float, default=0.15)
    args = parser.parse_args()
    for needed, fix in [(args.loradeck, "cargo build --release"), (SMOLLM2, "sh tests/tools/fetch_smollm2.sh models")]:
        if not needed.exists():
            sys.exit(f"{needed} does not exist: {fix}")
    worst = 0.0
    for base, batch, length, targets, recompute in CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            write_records(Path(folder), 2 * batch, length)
            config = Path(folder) / "run.yaml"
            config.write_text(
                f"base_model: {json.dumps(str(base))}\ntrain_data_dir: {json.dumps(folder + '/records.jsonl')}\n"
                f"output_dir: {json.dumps(folder + '/run')}\nbatch_size: {batch}\nsequence_len: {length}\n"
                f"target_modules: {targets}\ngradient_checkpointing: {str(recompute).lower()}\n"
                "lora_rank: 8\ntrain_on_inputs: true\neval_split: 0\ndevice: cpu\n"
            )
            estimate = run(args.loradeck, "check", config, "--json")["memory"]["total_bytes"]
            measured = run(args.loradeck, "bench", config, "--json", "--steps", 2, "--warmup", 1)["peak_memory_bytes"]
        off = estimate / measured - 1
        worst = max(worst, abs(off))
        print(
            f"{Path(base).name:<36} {batch:>2} x {length:<4} {targets:<34} recomputation {'on ' if recompute else 'off'}"
            f"  estimate {estimate / 2**20:7.1f} MiB  measured {measured / 2**20:7.1f} MiB  {off:+.1%}"
        )
    print(f"worst: {worst:.1%}")
    sys.exit(worst > args.tolerance)


if __name__ == "__main__":
    main()
