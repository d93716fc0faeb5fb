"""Writes the reference numbers that image bases are held against (diffusers + transformers + PEFT, f32, CPU).

    python tests/tools/make_diffusion_fixtures.py                 # all of tests/fixtures/diffusion
    python tests/tools/make_diffusion_fixtures.py --only sd1      # sd1, sd2, sdxl or tokenizer

Deterministic: tiny random models from a fixed seed, one thread. What lies in each folder:

sd1/, sd2/, sdxl/
    base/                   a diffusers folder (f16; no tokenizer)
    checkpoint.safetensors  the same weights in the original code's layout, with averaged weights beside them that must be ignored;
                            held here against diffusers' own conversion, so that base/ is what diffusers makes of it
    expected.safetensors    ids [texts,T] and text.context [texts*T,F], text.pooled; image [pixels,3], vae.mean, vae.log_variance and
                            vae.image (decoded from the mean), unet.latents, unet.timesteps, unet.time_ids, unet.base (without the adapter),
                            unet.out (with it), target, loss (mean squared error), a.<module>, b.<module> and their gradients
                            grad.a.<module>, grad.b.<module>. Images and latents are rows of channels. SD2 predicts v.
                            skip.<n>: the context with clip_skip n.
tokenizer/  vocab.json, merges.txt: a small CLIP vocabulary trained on a few sentences; tokens.json: ids by transformers' tokenizer
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint, convert_open_clip_checkpoint
from diffusers.utils import logging as diffusers_logging
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging

from image_models import clip_name, open_clip, original_unet_name

ROOT = Path(__file__).resolve().parents[2] / "tests/fixtures/diffusion"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
FEED_FORWARD = ["ff.net.0.proj", "ff.net.2"]
PROJECTIONS = ["proj_in", "proj_out"]
RESNET = ["conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
WIDTH, LENGTH, VOCAB, PROJECTION = 32, 9, 60, 16
SCALING = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}

# The adapter of each kind: between them every kind of target.
TARGETS = {"sd1": ATTENTION + FEED_FORWARD + PROJECTIONS + RESNET, "sd2": ATTENTION, "sdxl": ATTENTION + FEED_FORWARD + ["proj_in", "time_embedding.linear_1"]}
RANK, ALPHA = 2, 3.0


@torch.no_grad()
def randomise(model, seed: int, dtype=torch.float16):
    """Weights of a trained model's size, as they are in f16."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.eval().named_parameters():
        if p.dim() == 1:
            p.copy_(torch.randn(p.shape, generator=generator) * 0.1 + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
        else:
            fan_in = p[0].numel() if "embedding" not in name else 4
            p.copy_(torch.randn(p.shape, generator=generator) / fan_in**0.5)
        p.copy_(p.to(dtype).float())
    return model


def unet(kind: str) -> UNet2DConditionModel:
    # Groups of two and three channels: in groups of one the timestep would be normed away.
    shared = dict(sample_size=8, layers_per_block=2, norm_num_groups=8)
    if kind == "sdxl":
        return UNet2DConditionModel(
            block_out_channels=(16, 24, 24), attention_head_dim=(1, 1, 1), cross_attention_dim=2 * WIDTH,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 1, 2),
            use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=PROJECTION + 48, **shared)
    return UNet2DConditionModel(
        block_out_channels=(16, 24), attention_head_dim=8 if kind == "sd1" else (1, 1), cross_attention_dim=WIDTH, use_linear_projection=kind == "sd2",
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **shared)


def text_encoder(which: int, kind: str):
    projected = which == 2
    config = CLIPTextConfig(
        hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=3 if projected else 2, num_attention_heads=1, vocab_size=VOCAB, max_position_embeddings=LENGTH + 3,
        projection_dim=PROJECTION, hidden_act="gelu" if projected or kind == "sd2" else "quick_gelu", bos_token_id=VOCAB - 2, eos_token_id=VOCAB - 1, pad_token_id=0)
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def vae(kind: str) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 16, 24), layers_per_block=1, norm_num_groups=8, latent_channels=4, sample_size=16, scaling_factor=SCALING[kind],
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3)


def components(kind: str) -> dict:
    parts = {"unet": unet(kind), "vae": vae(kind), "text_encoder": text_encoder(1, kind)}
    if kind == "sdxl":
        parts["text_encoder_2"] = text_encoder(2, kind)
    return {name: randomise(model, seed) for seed, (name, model) in enumerate(parts.items(), 1)}


def original_vae_name(name: str, blocks: int) -> str:
    """The original code's name of a tensor of the VAE."""
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{blocks - 1 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    for ours, theirs in [("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")]:
        name = name.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{theirs}.")
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def checkpoint(kind: str, parts: dict) -> dict[str, torch.Tensor]:
    """The original code's layout; `conversion` holds it against diffusers' own."""
    net = parts["unet"]
    blocks = len(net.config.block_out_channels)
    attends = (lambda depth: depth > 0) if kind == "sdxl" else (lambda depth: depth + 1 < blocks)
    file = {f"model.diffusion_model.{original_unet_name(n, blocks, attends)}": t for n, t in net.state_dict().items()}
    for name, tensor in parts["vae"].state_dict().items():
        original = original_vae_name(name, len(parts["vae"].config.block_out_channels))
        file[f"first_stage_model.{original}"] = tensor[:, :, None, None] if "attn_1" in original and tensor.dim() == 2 else tensor
    text = {clip_name(n): t for n, t in parts["text_encoder"].state_dict().items()}
    if kind == "sd2":
        # The last layer, which diffusers leaves out.
        last = {n.replace("layers.1.", "layers.2."): torch.full_like(t, 9.0) for n, t in text.items() if "layers.1." in n}
        file |= original_open_clip("cond_stage_model.model.", text | last)
    else:
        prefix = {"sd1": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}[kind]
        file |= {prefix + n: t for n, t in text.items()}
    if kind == "sdxl":
        text = {clip_name(n): t for n, t in parts["text_encoder_2"].state_dict().items()}
        file |= original_open_clip("conditioner.embedders.1.model.", text)
    file = {name: tensor.detach().half().contiguous().clone() for name, tensor in file.items()}
    file["model_ema.diffusion_modelinput_blocks00weight"] = torch.zeros(2)
    file["cond_stage_model.transformer.text_model.embeddings.position_ids" if kind == "sd1" else "alphas_cumprod"] = torch.arange(3)
    return file


def original_open_clip(prefix: str, text: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    file = {prefix + name: tensor for name, tensor in open_clip(text).items()}
    file[f"{prefix}token_embedding.weight"] = text["text_model.embeddings.token_embedding.weight"]
    file[f"{prefix}positional_embedding"] = text["text_model.embeddings.position_embedding.weight"]
    for part in ["weight", "bias"]:
        file[f"{prefix}ln_final.{part}"] = text[f"text_model.final_layer_norm.{part}"]
    if "text_projection.weight" in text:
        file[f"{prefix}text_projection"] = text["text_projection.weight"].T
    return file


def conversion(kind: str, parts: dict, file: dict[str, torch.Tensor]) -> None:
    """Exits unless diffusers' own conversion of the checkpoint gives the parts' weights."""
    converted = {"unet": convert_ldm_unet_checkpoint(dict(file), config=dict(parts["unet"].config)), "vae": convert_ldm_vae_checkpoint(dict(file), config=dict(parts["vae"].config))}
    if kind == "sd2":
        converted["text_encoder"] = convert_open_clip_checkpoint(parts["text_encoder"], dict(file), prefix="cond_stage_model.model.")
    if kind == "sdxl":
        converted["text_encoder_2"] = convert_open_clip_checkpoint(parts["text_encoder_2"], dict(file), prefix="conditioner.embedders.1.model.")
    for component, tensors in converted.items():
        tensors = {name.removeprefix("text_model.") if component != "unet" else name: tensor for name, tensor in tensors.items()}
        wrong = []
        for name, tensor in parts[component].state_dict().items():
            found = tensors.get(name.removeprefix("text_model."))
            if "position_ids" not in name and (found is None or not torch.equal(found.float().reshape(tensor.shape), tensor)):
                wrong.append(name)
        if wrong:
            sys.exit(f"{kind}: diffusers reads the checkpoint's {component} otherwise: {wrong[:3]}.")


def rows(x: torch.Tensor) -> torch.Tensor:
    """[N,C,H,W] as [N*H*W,C]."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def encode(kind: str, parts: dict, ids: torch.Tensor, skip: int = 0):
    """Context and pooled text, as diffusers' pipelines make them (`encode_prompt`)."""
    first = parts["text_encoder"](ids, output_hidden_states=True)
    if kind != "sdxl":
        if skip < 2:
            return first.last_hidden_state, None
        norm = getattr(parts["text_encoder"], "text_model", parts["text_encoder"]).final_layer_norm
        return norm(first.hidden_states[-skip]), None
    layer = -max(skip, 2)
    second = parts["text_encoder_2"](zero_padded(ids), output_hidden_states=True)
    return torch.cat([first.hidden_states[layer], second.hidden_states[layer]], -1), second.text_embeds


def zero_padded(ids: torch.Tensor) -> torch.Tensor:
    """OpenCLIP's tokenizer pads with 0."""
    ids = ids.clone()
    for row in ids:
        end = (row == VOCAB - 1).nonzero()[0, 0]
        row[end + 1 :] = 0
    return ids


def adapt(kind: str, parts: dict) -> dict[str, torch.nn.Parameter]:
    """Puts a random adapter on the UNet and the text encoders; its A and B by module."""
    parameters = {}
    for component in [name for name in parts if name != "vae"]:
        names = TARGETS[kind] if component == "unet" else TEXT
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=names, init_lora_weights=False)
        inject_adapter_in_model(config, parts[component], adapter_name="x")
        for name, p in parts[component].named_parameters():
            match = re.match(r"(.*)\.lora_([AB])\.x\.weight", name)
            p.requires_grad_(bool(match))
            if match:
                module = match[1] if component == "unet" else clip_name(match[1])
                parameters[f"{match[2].lower()}.{component}.{module}"] = p
    generator = torch.Generator().manual_seed(11)
    for name, p in sorted(parameters.items()):
        with torch.no_grad():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
    return parameters


def make(kind: str) -> None:
    folder = ROOT / kind
    shutil.rmtree(folder, ignore_errors=True)
    parts = components(kind)
    for name, model in parts.items():
        model.half().save_pretrained(folder / "base" / name)
        model.float()
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction" if kind == "sd2" else "epsilon")
    scheduler.save_pretrained(folder / "base/scheduler")
    name = "StableDiffusionXLPipeline" if kind == "sdxl" else "StableDiffusionPipeline"
    (folder / "base/model_index.json").write_text(json.dumps({"_class_name": name}) + "\n")
    file = checkpoint(kind, parts)
    conversion(kind, parts, file)
    metadata = {"modelspec.prediction_type": "v"} if kind == "sd2" else None
    save_file(file, folder / "checkpoint.safetensors", metadata)

    generator = torch.Generator().manual_seed(5)
    random = lambda *shape: torch.randn(*shape, generator=generator)
    out: dict[str, torch.Tensor] = {}
    # The first text is shorter than its row.
    ids = torch.randint(1, VOCAB - 2, (2, LENGTH), generator=generator)
    ids[:, 0], ids[:, -1], ids[0, 5:] = VOCAB - 2, VOCAB - 1, VOCAB - 1
    encoder_ids = zero_padded(ids) if kind == "sd2" else ids
    out["ids"] = ids
    with torch.no_grad():
        context, pooled = encode(kind, parts, encoder_ids)
        out["text.context"] = context.reshape(-1, context.shape[-1])
        if pooled is not None:
            out["text.pooled"] = pooled
        for skip in [1, 2]:
            out[f"skip.{skip}"] = encode(kind, parts, encoder_ids, skip)[0].reshape(-1, context.shape[-1])
        image = torch.rand(2, 3, 16, 12, generator=generator) * 2 - 1
        encoded = parts["vae"].encode(image).latent_dist
        decoded = parts["vae"].decode(encoded.mean).sample
        out |= {"image": rows(image), "vae.mean": rows(encoded.mean), "vae.log_variance": rows(encoded.logvar), "vae.image": rows(decoded)}

    clean, noise = random(2, 4, 8, 12), random(2, 4, 8, 12)
    timesteps = torch.tensor([37, 981])
    noisy = DDPMScheduler.from_config(scheduler.config)
    latents = noisy.add_noise(clean, noise, timesteps)
    target = noise if kind != "sd2" else noisy.get_velocity(clean, noise, timesteps)
    out |= {"unet.latents": rows(latents), "unet.timesteps": timesteps.float(), "target": rows(target)}
    time_ids = torch.tensor([[64.0, 48.0, 0.0, 0.0, 64.0, 48.0], [100.0, 96.0, 8.0, 4.0, 64.0, 48.0]])
    if kind == "sdxl":
        out["unet.time_ids"] = time_ids

    def predict() -> torch.Tensor:
        context, pooled = encode(kind, parts, encoder_ids)
        added = {"text_embeds": pooled, "time_ids": time_ids} if kind == "sdxl" else None
        return parts["unet"](latents, timesteps, context, added_cond_kwargs=added).sample

    with torch.no_grad():
        out["unet.base"] = rows(predict())
    parameters = adapt(kind, parts)
    prediction = predict()
    loss = F.mse_loss(prediction, target)
    loss.backward()
    out |= {"unet.out": rows(prediction), "loss": loss.reshape(1)}
    for name, p in parameters.items():
        # SDXL never sees the last layer of its first text encoder.
        gradient = torch.zeros_like(p) if p.grad is None else p.grad
        if p.grad is not None and gradient.abs().max() < 1e-5:
            sys.exit(f"{kind}: the gradient of {name} is {gradient.abs().max():.1e}: noise, nothing to compare with.")
        out[name], out[f"grad.{name}"] = p.flatten(1), gradient.flatten(1)
    save_file({name: tensor.detach().contiguous().clone() for name, tensor in sorted(out.items())}, folder / "expected.safetensors")
    print(f"{kind}: {sum(p.numel() for m in parts.values() for p in m.parameters()):,} parameters, loss {loss.item():.4f}, {len(parameters) // 2} adapted modules")


TEXTS = ["a photo of a cat", "A  Photo of  the CAT's hat, 3 cats!", "", "naïve café – déjà vu", "猫 in the hat 1234", "it's the dog's 2nd house; they're red & blue.",
         "masterpiece, best quality, 1girl, red_hair, (smile:1.2)", "emoji 😀 and\ttabs\nand lines", "<|endoftext|> inside", "x" * 40]


def make_tokenizer() -> None:
    """A small vocabulary in CLIP's layout, trained as CLIP's was: 512 bytes' letters, merges, begin and end."""
    folder = ROOT / "tokenizer"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    trainee = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trainee.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(__import__("tokenizers").Regex(r"\s+"), " "), normalizers.Lowercase()])
    trainee.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(__import__("tokenizers").Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    trainee.train_from_iterator(TEXTS * 5, trainers.BpeTrainer(vocab_size=500, end_of_word_suffix="</w>", show_progress=False, min_frequency=4))
    merges = [tuple(merge) for merge in json.loads(trainee.to_str())["model"]["merges"]]
    letters = list(bytes_to_unicode().values())
    tokens = letters + [f"{letter}</w>" for letter in letters] + ["".join(merge) for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    cases = [{"text": text, "ids": tokenizer(text, add_special_tokens=False)["input_ids"]} for text in TEXTS]
    (folder / "tokens.json").write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")
    print(f"tokenizer: {len(vocabulary)} tokens")


def bytes_to_unicode() -> dict[int, str]:
    """GPT-2's letters for bytes, in the order of CLIP's vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["sd1", "sd2", "sdxl", "tokenizer"])
    args = parser.parse_args()
    logging.set_verbosity_error()
    diffusers_logging.set_verbosity_error()
    torch.set_num_threads(1)
    for kind in ["sd1", "sd2", "sdxl"]:
        if args.only in (None, kind):
            make(kind)
    if args.only in (None, "tokenizer"):
        make_tokenizer()


if __name__ == "__main__":
    main()
