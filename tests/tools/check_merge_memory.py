"""Merging needs little memory, whatever the base's size.

    python tests/tools/check_merge_memory.py --loradeck target/release/loradeck --scratch /tmp/x [--gib 5]

Writes a LLaMA-shaped base of about so many GiB in bf16 (random rows, repeated; one shard of half the size and
two of a quarter) and an adapter of all its linears, merges them, and reads the process's peak memory (VmHWM)
while it runs. Fails when it exceeds --limit-mib or when a merged row is not what torch computes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

HIDDEN, INNER, RANK, ALPHA = 4096, 11008, 8, 16.0
LINEARS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (HIDDEN, HIDDEN), "self_attn.v_proj": (HIDDEN, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER),
}


def write_base(folder: Path, gib: float) -> int:
    per_layer = sum(rows * columns for rows, columns in LINEARS.values()) * 2
    layers = max(4, round(gib * 2**30 / per_layer / 4) * 4)
    weight_map = {}
    folder.mkdir(parents=True)
    pattern = torch.randn(64, INNER).to(torch.bfloat16) * 0.02
    for shard, chosen in enumerate([range(layers // 2), range(layers // 2, 3 * layers // 4), range(3 * layers // 4, layers)], 1):
        name = f"model-{shard:05}-of-00003.safetensors"
        header, offset = {}, 0
        for layer in chosen:
            for linear, (rows, columns) in LINEARS.items():
                key = f"model.layers.{layer}.{linear}.weight"
                header[key] = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [offset, offset + 2 * rows * columns]}
                offset += 2 * rows * columns
                weight_map[key] = name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for info in header.values():
                rows, columns = info["shape"]
                block = pattern[:, :columns].contiguous().view(torch.uint8).numpy().tobytes()
                for _ in range(rows // 64):
                    file.write(block)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return layers


def write_adapter(folder: Path, layers: int) -> None:
    folder.mkdir(parents=True)
    tensors = {}
    for layer in range(layers):
        for linear, (rows, columns) in LINEARS.items():
            key = f"base_model.model.model.layers.{layer}.{linear}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(RANK, columns) / columns**0.5
            tensors[f"{key}.lora_B.weight"] = torch.randn(rows, RANK) * 0.1
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "target_modules": [n.split(".")[1] for n in LINEARS]}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def peak_mib(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loradeck", required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--gib", type=float, default=5.0)
    parser.add_argument("--limit-mib", type=float, default=1024)
    args = parser.parse_args()
    torch.manual_seed(1)
    shutil.rmtree(args.scratch, ignore_errors=True)
    base, adapter, merged = args.scratch / "base", args.scratch / "adapter", args.scratch / "merged"
    layers = write_base(base, args.gib)
    write_adapter(adapter, layers)
    size = sum(f.stat().st_size for f in base.glob("*.safetensors"))
    begun = time.time()
    process = subprocess.Popen([args.loradeck, "merge", "--base", base, "--lora", adapter, "--output", merged])
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, peak_mib(process.pid))
        time.sleep(0.02)
    print(f"a base of {size / 2**30:.2f} GiB merged in {time.time() - begun:.0f} s; VmHWM {peak:.0f} MiB (limit {args.limit_mib:.0f})")
    if process.returncode != 0 or peak == 0:
        sys.exit("The merge failed.")
    key = f"model.layers.{layers - 1}.mlp.down_proj"
    name = "model-00003-of-00003.safetensors"
    with safe_open(base / name, "pt") as before, safe_open(merged / name, "pt") as after, safe_open(adapter / "adapter_model.safetensors", "pt") as lora:
        a, b = (lora.get_tensor(f"base_model.model.{key}.lora_{end}.weight") for end in "AB")
        rows = slice(HIDDEN - 3, HIDDEN)
        exact = before.get_slice(f"{key}.weight")[rows].float() + ALPHA / RANK * b[rows] @ a
        error = (after.get_slice(f"{key}.weight")[rows].float() - exact).abs().max() / exact.abs().max()
    print(f"the last rows of the last tensor are within {error:.1e} of torch's (bf16 rounds by 4e-3)")
    shutil.rmtree(args.scratch)
    if error > 4e-3 or peak > args.limit_mib:
        sys.exit("The result is wrong, or took too much memory.")


if __name__ == "__main__":
    main()
