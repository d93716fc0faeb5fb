"""Writes tests/fixtures/llama_cpp: what llama.cpp itself computes with an adapter exported by loradeck.

    python tests/tools/make_llama_cpp_fixture.py --loradeck target/release/loradeck

peft/, rslora/      random adapters of all linears of tests/fixtures/gguf/tiny-f32.gguf, as PEFT writes them
*.gguf              loradeck's exports of them, which llama.cpp loaded
*.safetensors       input_ids [T], bare and adapted [T,V]: llama.cpp's logits
Seeded: the adapters come out the same; the logits as near as processors differ.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig

TOOLS = Path(__file__).resolve().parent
FIXTURES = TOOLS.parent / "fixtures"
BASE = FIXTURES / "gguf/tiny-f32.gguf"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def linears(config) -> dict[str, tuple[int, int]]:
    """(in, out) of the linears of a layer."""
    hidden, heads, kv = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    head = getattr(config, "head_dim", None) or hidden // heads
    inner = config.intermediate_size
    return {
        "self_attn.q_proj": (hidden, heads * head), "self_attn.k_proj": (hidden, kv * head),
        "self_attn.v_proj": (hidden, kv * head), "self_attn.o_proj": (heads * head, hidden),
        "mlp.gate_proj": (hidden, inner), "mlp.up_proj": (hidden, inner), "mlp.down_proj": (inner, hidden),
    }


def write_peft(folder: Path, rank: int, alpha: float, use_rslora: bool, seed: int) -> None:
    config = AutoConfig.from_pretrained(BASE.parent, gguf_file=BASE.name)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config.num_hidden_layers):
        for name, (inputs, outputs) in linears(config).items():
            key = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) / inputs**0.5
            tensors[f"{key}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator) * 0.1
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    description = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha, "use_rslora": use_rslora,
        "target_modules": TARGETS, "base_model_name_or_path": "tiny", "lora_dropout": 0.0, "bias": "none",
        "inference_mode": True, "fan_in_fan_out": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loradeck", required=True)
    parser.add_argument("--output", type=Path, default=FIXTURES / "llama_cpp")
    args = parser.parse_args()
    tokens = json.dumps([1, 5, 9, 200, 40, 7, 133, 260, 77, 31, 2, 90])
    for name, rank, alpha, use_rslora in [("peft", 4, 6.0, False), ("rslora", 8, 4.0, True)]:
        folder, adapter = args.output / name, args.output / f"{name}.gguf"
        write_peft(folder, rank, alpha, use_rslora, seed=rank)
        adapter.unlink(missing_ok=True)
        subprocess.run([args.loradeck, "export", folder, "--format", "gguf", "--base", BASE, "--output", adapter], check=True)
        check = [sys.executable, TOOLS / "check_llama_cpp.py", "--base", BASE, "--adapter", adapter, "--tokens", tokens]
        subprocess.run([*check, "--write", args.output / f"{name}.safetensors"], check=True)


if __name__ == "__main__":
    main()
