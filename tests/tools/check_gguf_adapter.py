"""gguf.GGUFReader finds every key and tensor of an adapter that loradeck exported.

    loradeck export PEFT --format gguf --base BASE.gguf --output ADAPTER.gguf
    python tests/tools/check_gguf_adapter.py --adapter ADAPTER.gguf --peft PEFT --base BASE.gguf

The tensors must be PEFT's: A as it is, B with the rows of q and k in llama.cpp's order (recomputed here as its
converter does), alpha / r as PEFT's scale. Fails (exit code 1, one sentence) otherwise.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def permute(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's convert_hf_to_gguf.py, LlamaModel.permute."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--peft", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    args = parser.parse_args()
    reader, base = gguf.GGUFReader(args.adapter), gguf.GGUFReader(args.base)
    value = lambda r, key: r.fields[key].contents()
    architecture = value(base, "general.architecture")
    for key, expected in [("general.architecture", architecture), ("general.type", "adapter"), ("adapter.type", "lora")]:
        if key not in reader.fields or value(reader, key) != expected:
            sys.exit(f"{key} is not {expected}.")
    config = json.loads((args.peft / "adapter_config.json").read_text(encoding="utf-8"))
    rank, alpha = config["r"], config["lora_alpha"]
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    found = value(reader, "adapter.lora.alpha") / rank
    if abs(found / scale - 1) > 1e-6:
        sys.exit(f"alpha / r is {found}, PEFT's scale {scale}.")
    tensors = {t.name: t.data for t in reader.tensors}
    expected = load_file(args.peft / "adapter_model.safetensors")
    if len(tensors) != len(expected):
        sys.exit(f"{len(tensors)} tensors, {len(expected)} expected.")
    heads = {"attn_q": value(base, f"{architecture}.attention.head_count"), "attn_k": value(base, f"{architecture}.attention.head_count_kv")}
    for key, numbers in expected.items():
        layer, rest = key.removeprefix("base_model.model.model.layers.").split(".", 1)
        module, end = rest.removesuffix(".weight").rsplit(".", 1)
        part = NAMES[module]
        if end == "lora_B" and part in heads:
            numbers = permute(numbers, heads[part])
        if not np.array_equal(tensors[f"blk.{layer}.{part}.weight.{end.lower()}"], numbers):
            sys.exit(f"{key} differs.")
    print(f"{len(tensors)} tensors and the metadata are right; scale {found:.6f}")


if __name__ == "__main__":
    main()
