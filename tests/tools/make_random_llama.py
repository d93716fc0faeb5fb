"""Writes a LLaMA with random weights, as a Hugging Face folder in bf16: for measuring speed and memory
where no real base can be fetched.

    python tests/tools/make_random_llama.py --shape 1.1b FOLDER     # TinyLlama's shape, 2.2 GB
    python tests/tools/make_random_llama.py --shape 8b FOLDER       # Llama 3.1's, 16 GB
    python tests/tools/make_random_llama.py --shape tiny FOLDER     # to try scripts with

The tokenizer knows the words `w0`, `w1`, ..., one token each. Needs numpy.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

# hidden, intermediate, layers, heads, key heads, vocabulary, rope theta
SHAPES = {
    "tiny": (64, 176, 2, 4, 2, 512, 10000.0),
    "1.1b": (2048, 5632, 22, 32, 4, 32000, 10000.0),
    "8b": (4096, 14336, 32, 32, 8, 128256, 500000.0),
}
# Random numbers drawn; larger matrices repeat them.
DRAWN = 1 << 24


def tensors(shape: str) -> list[tuple[str, list[int]]]:
    hidden, inner, layers, heads, key_heads, vocabulary, _ = SHAPES[shape]
    keys = hidden // heads * key_heads
    found = [("model.embed_tokens.weight", [vocabulary, hidden]), ("lm_head.weight", [vocabulary, hidden]), ("model.norm.weight", [hidden])]
    for layer in range(layers):
        name = f"model.layers.{layer}."
        found += [
            (name + "input_layernorm.weight", [hidden]),
            (name + "post_attention_layernorm.weight", [hidden]),
            (name + "self_attn.q_proj.weight", [hidden, hidden]),
            (name + "self_attn.k_proj.weight", [keys, hidden]),
            (name + "self_attn.v_proj.weight", [keys, hidden]),
            (name + "self_attn.o_proj.weight", [hidden, hidden]),
            (name + "mlp.gate_proj.weight", [inner, hidden]),
            (name + "mlp.up_proj.weight", [inner, hidden]),
            (name + "mlp.down_proj.weight", [hidden, inner]),
        ]
    return found


def write_weights(shape: str, path: Path) -> None:
    header, place = {"__metadata__": {"format": "pt"}}, 0
    for name, size in tensors(shape):
        length = 2 * int(np.prod(size))
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": [place, place + length]}
        place += length
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    drawn = np.random.default_rng(7).standard_normal(DRAWN, dtype=np.float32) * 0.02
    drawn = (drawn.view(np.uint32) >> 16).astype(np.uint16)
    ones = np.full(max(s[0] for s in SHAPES.values()), 0x3F80, np.uint16)
    start = 0
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, size in tensors(shape):
            left = int(np.prod(size))
            if name.endswith("norm.weight"):
                ones[:left].tofile(out)
                continue
            while left > 0:
                count = min(left, DRAWN - start)
                drawn[start : start + count].tofile(out)
                left -= count
                # Another start for the next matrix, so that no two are equal.
                start = (start + count + 4099) % DRAWN


def write_tokenizer(vocabulary: int, folder: Path) -> None:
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i + 3 for i in range(min(vocabulary, 4096) - 3)}}
    special = [{"id": i, "content": c, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for c, i in list(words.items())[:3]]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 8192}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    hidden, inner, layers, heads, key_heads, vocabulary, theta = SHAPES[args.shape]
    args.folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": key_heads,
        "vocab_size": vocabulary, "rope_theta": theta, "rms_norm_eps": 1e-5, "max_position_embeddings": 8192, "hidden_act": "silu",
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    }
    (args.folder / "config.json").write_text(json.dumps(config, indent=1))
    write_tokenizer(vocabulary, args.folder)
    unfinished = args.folder / "model.safetensors.part"
    write_weights(args.shape, unfinished)
    unfinished.rename(args.folder / "model.safetensors")


if __name__ == "__main__":
    main()
