"""Tiny Stable Diffusion models and adapters for them, and what diffusers makes of loradeck's files.

    python tests/tools/image_models.py make --family sd1 --output DIR
    loradeck export DIR/kohya.safetensors --format diffusers --output DIR/diffusers.safetensors
    python tests/tools/image_models.py check --family sd1 --models DIR --adapter DIR/diffusers.safetensors --scale 1
    loradeck merge --base DIR/pipeline --lora DIR/kohya.safetensors:0.5 --output DIR/merged
    python tests/tools/image_models.py check-merge --family sd1 --models DIR --merged DIR/merged --strength 0.5
    loradeck merge --base DIR/checkpoint.safetensors --lora DIR/kohya.safetensors --output DIR/merged.safetensors
    python tests/tools/image_models.py check-merge --family sd1 --models DIR --merged DIR/merged.safetensors

`make` writes, with the block structure of Stable Diffusion 1.5 (sd1) or XL (sdxl) at a tenth of their widths:
pipeline/ (a diffusers folder: UNet, text encoders), checkpoint.safetensors (the same weights under the original
code's names; held against diffusers' own conversion of such files), and kohya.safetensors, an adapter of all
attentions, projections, feed-forwards, the first convolutions and the text encoders, with alpha other than the
rank. `check` loads a file with `load_lora_weights` and compares every module's A, B and `scaling` with those
that diffusers gets from kohya.safetensors; --scale is the scaling that must be found. `check-merge` compares a merged
base's weights with diffusers' `fuse_lora`. All fail with exit code 1 and one sentence.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_open_clip_checkpoint
from diffusers.utils import logging as diffusers_logging
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
from transformers.utils import logging

RANK, ALPHA = 4, 6.0


def unet(family: str) -> UNet2DConditionModel:
    torch.manual_seed(0)
    if family == "sd1":
        return UNet2DConditionModel(
            sample_size=8, block_out_channels=(32, 32, 64, 64), attention_head_dim=8, cross_attention_dim=24,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, norm_num_groups=8,
        )
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 32, 64), attention_head_dim=(2, 4, 8), cross_attention_dim=40,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2, 3),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64, norm_num_groups=8,
    )


def text_encoder(width: int, projection: bool):
    torch.manual_seed(width)
    config = CLIPTextConfig(hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2, vocab_size=99, projection_dim=16, bos_token_id=97, eos_token_id=98, pad_token_id=98)
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def components(family: str) -> dict:
    models = {"unet": unet(family), "text_encoder": text_encoder(24, False)}
    if family == "sdxl":
        models["text_encoder_2"] = text_encoder(16, True)
    return {name: model.eval() for name, model in models.items()}


def pipeline(family: str, models: dict):
    rest = dict(vae=None, tokenizer=None, scheduler=DDIMScheduler(clip_sample=False, steps_offset=1))
    if family == "sd1":
        return StableDiffusionPipeline(**models, **rest, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    return StableDiffusionXLPipeline(**models, **rest, tokenizer_2=None)


def original_unet_name(name: str, blocks: int, attends) -> str:
    """The original code's name of a tensor of the UNet (as in diffusers' convert_diffusers_to_original_*.py)."""
    for ours, theirs in [("conv_in.", "input_blocks.0.0."), ("conv_out.", "out.2."), ("conv_norm_out.", "out.0."),
                         ("time_embedding.linear_1.", "time_embed.0."), ("time_embedding.linear_2.", "time_embed.2."),
                         ("add_embedding.linear_1.", "label_emb.0.0."), ("add_embedding.linear_2.", "label_emb.0.2.")]:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    if ".resnets." in name:
        for ours, theirs in [("norm1.", "in_layers.0."), ("conv1.", "in_layers.2."), ("norm2.", "out_layers.0."),
                             ("conv2.", "out_layers.3."), ("time_emb_proj.", "emb_layers.1."), ("conv_shortcut.", "skip_connection.")]:
            name = re.sub(rf"(resnets\.\d+\.){re.escape(ours)}", rf"\g<1>{theirs}", name)
    match = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name)
    if match:
        way, block, kind, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if kind == "downsamplers":
            return f"input_blocks.{3 * (block + 1)}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            return f"output_blocks.{3 * block + 2}.{2 if attends(blocks - 1 - block) else 1}.{rest}"
        slot = 0 if kind == "resnets" else 1
        return f"input_blocks.{3 * block + index + 1}.{slot}.{rest}" if way == "down" else f"output_blocks.{3 * block + index}.{slot}.{rest}"
    match = re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name)
    slot = {("resnets", "0"): 0, ("attentions", "0"): 1, ("resnets", "1"): 2}[match[1], match[2]]
    return f"middle_block.{slot}.{match[3]}"


def original(family: str, model) -> dict[str, str]:
    blocks = len(model.config.block_out_channels)
    attends = (lambda depth: depth > 0) if family == "sdxl" else (lambda depth: depth + 1 < blocks)
    return {name: original_unet_name(name, blocks, attends) for name in model.state_dict()}


def open_clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A text encoder's tensors as OpenCLIP has them: query, key and value in one matrix."""
    out = {}
    for name, tensor in state.items():
        name = name.removeprefix("text_model.")
        match = re.match(r"encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", name)
        if not match:
            continue
        layer, module, kind = match.groups()
        prefix = f"transformer.resblocks.{layer}"
        if module == "self_attn.q_proj":
            key = lambda which: next(state[n] for n in state if n.endswith(f"encoder.layers.{layer}.self_attn.{which}_proj.{kind}"))
            out[f"{prefix}.attn.in_proj_{kind}"] = torch.cat([key(which) for which in "qkv"])
        elif module not in {"self_attn.k_proj", "self_attn.v_proj"}:
            theirs = {"self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2"}[module]
            out[f"{prefix}.{theirs}.{kind}"] = tensor
    return out


def clip_name(name: str) -> str:
    return name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}"


def checkpoint(family: str, models: dict) -> dict[str, torch.Tensor]:
    """The pipeline's tensors as a single-file checkpoint has them."""
    names = original(family, models["unet"])
    file = {f"model.diffusion_model.{names[n]}": t for n, t in models["unet"].state_dict().items()}
    back = convert_ldm_unet_checkpoint(dict(file), config=dict(models["unet"].config))
    wrong = [n for n, t in models["unet"].state_dict().items() if n not in back or not torch.equal(back[n], t)]
    if wrong:
        sys.exit(f"diffusers reads the checkpoint otherwise: {wrong[:3]}.")
    first = {"sd1": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}[family]
    file |= {first + clip_name(n): t for n, t in models["text_encoder"].state_dict().items()}
    if family == "sdxl":
        file |= {f"conditioner.embedders.1.model.{n}": t for n, t in open_clip(models["text_encoder_2"].state_dict()).items()}
    return {name: tensor.contiguous().clone() for name, tensor in file.items()}


def kohya(family: str, models: dict) -> dict[str, torch.Tensor]:
    """An adapter as kohya's trainer writes it."""
    generator = torch.Generator().manual_seed(7)
    random = lambda *shape: (torch.randn(*shape, generator=generator) * 0.1).half()
    names = original(family, models["unet"])
    tensors = {}
    for component, model in models.items():
        prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_" if family == "sd1" else "lora_te1_", "text_encoder_2": "lora_te2_"}[component]
        for name, module in model.named_modules():
            if component == "unet":
                wanted = ".attentions." in name or re.search(r"resnets\.0\.conv1$", name)
                key = names[f"{name}.weight"].removesuffix(".weight") if wanted and hasattr(module, "weight") and family == "sdxl" else name
            else:
                wanted, key = re.search(r"self_attn\.|mlp\.", name), clip_name(name)
            if not wanted or not isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                continue
            key = prefix + key.replace(".", "_")
            if isinstance(module, torch.nn.Linear):
                tensors[f"{key}.lora_down.weight"] = random(RANK, module.in_features)
                tensors[f"{key}.lora_up.weight"] = random(module.out_features, RANK)
            else:
                tensors[f"{key}.lora_down.weight"] = random(RANK, module.in_channels, *module.kernel_size)
                tensors[f"{key}.lora_up.weight"] = random(module.out_channels, RANK, 1, 1)
            tensors[f"{key}.alpha"] = torch.tensor(ALPHA).half()
    return tensors


def make(family: str, output: Path) -> None:
    models = components(family)
    for name, model in models.items():
        model.save_pretrained(output / "pipeline" / name)
    (output / "pipeline/model_index.json").write_text(json.dumps({"_class_name": type(pipeline(family, models)).__name__}) + "\n")
    save_file(checkpoint(family, models), output / "checkpoint.safetensors", {"format": "pt"})
    version = {"sd1": "sd_v1", "sdxl": "sdxl_base_v1-0"}[family]
    tensors = kohya(family, models)
    save_file(tensors, output / "kohya.safetensors", {"ss_base_model_version": version, "ss_v2": "False", "ss_network_module": "networks.lora"})
    print(f"{family}: {sum(p.numel() for m in models.values() for p in m.parameters()):,} parameters, {len(tensors) // 3} adapted modules")


def layers(family: str, adapter: Path, models: dict | None = None) -> dict[str, tuple]:
    """(A, B, scaling) by module, as diffusers loads them."""
    models = models or components(family)
    pipe = pipeline(family, models)
    pipe.load_lora_weights(str(adapter.parent), weight_name=adapter.name, adapter_name="x")
    found = {}
    for component, model in models.items():
        for name, module in model.named_modules():
            if isinstance(module, BaseTunerLayer) and "x" in module.scaling:
                found[f"{component}.{name}"] = (module.lora_A["x"].weight.float(), module.lora_B["x"].weight.float(), module.scaling["x"])
    return found


def check(family: str, models: Path, adapter: Path, scale: float) -> None:
    expected, found = layers(family, models / "kohya.safetensors"), layers(family, adapter)
    adapted = len(load_file(models / "kohya.safetensors")) // 3
    if len(expected) != adapted or expected.keys() != found.keys():
        sys.exit(f"{len(found)} modules are adapted, {adapted} expected; diffusers gets {len(expected)} from kohya's file. {sorted(expected.keys() ^ found.keys())[:3]}")
    for name, (a, b, scaling) in expected.items():
        ours_a, ours_b, ours_scaling = found[name]
        if scaling != ALPHA / RANK or ours_scaling != scale:
            sys.exit(f"{name}: scaling is {ours_scaling}, expected {scale}.")
        if not torch.equal(ours_a, a):
            sys.exit(f"{name}: A differs.")
        if not torch.allclose(ours_b * ours_scaling, b * scaling, rtol=1e-6, atol=0):
            sys.exit(f"{name}: B times the scaling differs.")
    print(f"{family}: {adapter.name} loads in diffusers; A, B and scaling of {len(found)} modules are right")


def check_merge(family: str, models: Path, merged: Path, strength: float) -> None:
    fused = components(family)
    pipe = pipeline(family, fused)
    pipe.load_lora_weights(str(models), weight_name="kohya.safetensors", adapter_name="x")
    pipe.fuse_lora(components=list(fused), lora_scale=strength)
    pipe.unload_lora_weights()
    if merged.is_dir():
        ours = {f"{c}.{n}": t for c in fused for n, t in load_file(next((merged / c).glob("*.safetensors"))).items()}
        theirs = {f"{c}.{n}": t for c, model in fused.items() for n, t in model.state_dict().items()}
    else:
        ours, theirs = load_file(merged), checkpoint(family, fused)
    if ours.keys() != theirs.keys():
        sys.exit(f"The tensors differ: {sorted(ours.keys() ^ theirs.keys())[:4]}.")
    bare = components(family)
    before = checkpoint(family, bare) if merged.is_file() else {f"{c}.{n}": t for c, m in bare.items() for n, t in m.state_dict().items()}
    changed = 0
    for name, tensor in theirs.items():
        if torch.equal(before[name], tensor):
            if not torch.equal(ours[name], tensor):
                sys.exit(f"{name} was changed, and the adapter does not touch it.")
            continue
        changed += 1
        if not torch.allclose(ours[name], tensor, rtol=1e-4, atol=1e-6):
            sys.exit(f"{name} differs by {(ours[name] - tensor).abs().max():.2e}.")
    print(f"{family}: {merged.name} equals diffusers' fuse_lora at {strength}; {changed} tensors changed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "check", "check-merge"])
    parser.add_argument("--family", choices=["sd1", "sdxl"], required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--merged", type=Path)
    parser.add_argument("--strength", type=float, default=1.0)
    args = parser.parse_args()
    logging.set_verbosity_error()
    diffusers_logging.set_verbosity_error()
    if args.what == "make":
        make(args.family, args.output)
    elif args.what == "check":
        check(args.family, args.models, args.adapter, args.scale)
    else:
        check_merge(args.family, args.models, args.merged, args.strength)


if __name__ == "__main__":
    main()
