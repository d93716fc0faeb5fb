"""Writes a single-file checkpoint of the full size of Stable Diffusion 1.5 (or XL) with random weights.

    python tests/tools/make_full_checkpoint.py --output DIR/random-sd15.safetensors [--kind sd1|sdxl] [--dtype f32|f16]

Names and shapes are those of the published checkpoints: the modules are built without numbers (diffusers, transformers), and named by
the rules of make_diffusion_fixtures.py, which are held against diffusers' own conversion. Numbers are written tensor by tensor, so that no
more than one is in memory. A tokenizer is put beside it (tokenizer/): letters only, but of the full vocabulary's size.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from image_models import clip_name, original_unet_name
from make_diffusion_fixtures import bytes_to_unicode, original_open_clip, original_vae_name


def modules(kind: str) -> dict:
    vae = dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    first = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    if kind == "sd1":
        return {"unet": UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8), "vae": AutoencoderKL(**vae), "text_encoder": CLIPTextModel(first)}
    unet = UNet2DConditionModel(
        block_out_channels=(320, 640, 1280), attention_head_dim=(5, 10, 20), cross_attention_dim=2048, transformer_layers_per_block=(1, 2, 10), use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816)
    second = CLIPTextConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280, hidden_act="gelu")
    return {"unet": unet, "vae": AutoencoderKL(**vae), "text_encoder": CLIPTextModel(first), "text_encoder_2": CLIPTextModelWithProjection(second)}


def names(kind: str, parts: dict) -> dict[str, torch.Tensor]:
    """Tensors without numbers, by the original code's names."""
    blocks = len(parts["unet"].config.block_out_channels)
    attends = (lambda depth: depth > 0) if kind == "sdxl" else (lambda depth: depth + 1 < blocks)
    file = {f"model.diffusion_model.{original_unet_name(n, blocks, attends)}": t for n, t in parts["unet"].state_dict().items()}
    for name, tensor in parts["vae"].state_dict().items():
        file[f"first_stage_model.{original_vae_name(name, 4)}"] = tensor
    text = {clip_name(n): t for n, t in parts["text_encoder"].state_dict().items() if "position_ids" not in n}
    prefix = {"sd1": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}[kind]
    file |= {prefix + n: t for n, t in text.items()}
    if kind == "sdxl":
        text = {clip_name(n): t for n, t in parts["text_encoder_2"].state_dict().items() if "position_ids" not in n}
        file |= original_open_clip("conditioner.embedders.1.model.", text)
    return file


def write(path: Path, tensors: dict[str, torch.Tensor], dtype: str) -> int:
    size = {"f32": 4, "f16": 2}[dtype]
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * size
        header[name] = {"dtype": dtype.upper(), "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            numbers = rng.standard_normal(tensor.numel(), dtype=np.float32)
            if tensor.dim() > 1:
                # Outputs of the inputs' size; the text's tokens as small as trained ones.
                numbers *= 0.02 if "embedding" in name else tensor[0].numel() ** -0.5
            else:
                is_norm = any(part in name for part in ["norm", "ln_", "in_layers.0", "out_layers.0", ".out.0"])
                numbers = numbers * 0.02 + float(is_norm and name.endswith("weight"))
            file.write(numbers.astype({"f32": np.float32, "f16": np.float16}[dtype]).tobytes())
    return end


def write_tokenizer(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    letters = list(bytes_to_unicode().values())
    tokens = letters + [f"{letter}</w>" for letter in letters]
    tokens += [f"unused{i}" for i in range(49406 - len(tokens))] + ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--kind", choices=["sd1", "sdxl"], default="sd1")
    parser.add_argument("--dtype", choices=["f32", "f16"], default="f32")
    args = parser.parse_args()
    with torch.device("meta"):
        tensors = names(args.kind, modules(args.kind))
    size = write(args.output, tensors, args.dtype)
    write_tokenizer(args.output.parent / "tokenizer")
    print(f"{args.output}: {len(tensors)} tensors, {size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
