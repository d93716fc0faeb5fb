"""Pre-trains the tiny image base that is compiled into loradeck (`base_model: builtin:tiny-sd`).

    OMP_NUM_THREADS=1 python tests/tools/pretrain_tiny_sd.py --output src/model/builtin/tiny-sd

A latent diffusion model of Stable Diffusion 1's kind on pictures of 64x64 pixels (pictures.py): an AutoencoderKL
(64x64x3 to 16x16x4), a CLIP text model with a byte-level BPE of its own, and a UNet2DConditionModel that predicts the
noise. First the autoencoder is trained, on flat pictures and on random outlines and hatching; then text model and
UNet together, on flat pictures only; then the decoder alone, on both kinds again. Writes a diffusers folder with f16 weights; about 45 minutes on one core. Seeded:
running it again gives an equivalent base. --samples FILE draws a sheet of its samples.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

sys.path.insert(0, str(Path(__file__).parent))
import pictures

START, END = "<|startoftext|>", "<|endoftext|>"
WIDTH = 64  # of the text model
PROMPTS = ["a red house", "a blue fish", "a yellow star on a dark background", "a green tree on a blue background", "a purple flower", "a pink heart on a grey background",
           "an orange mushroom", "a white boat on a blue background", "a red girl", "a blue moon and a yellow star"]


def tokenizer_files(out: Path, captions: list[str], merges: int) -> None:
    """vocab.json and merges.txt as CLIP's: all bytes, all bytes that end a word, the merges, start and end."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=2 * 256 + merges, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(captions, trainer)
    learned = [tuple(m) for m in json.loads(tokenizer.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(m) for m in learned), START, END]
    out.mkdir(parents=True, exist_ok=True)
    (out / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(dict.fromkeys(pieces))}, ensure_ascii=False), encoding="utf-8")
    (out / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in learned), encoding="utf-8")
    write_json(out / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END,
                                               "model_max_length": 77, "do_lower_case": True, "add_prefix_space": False, "errors": "replace"})
    write_json(out / "special_tokens_map.json", {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END})


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def pixels(images: list[Image.Image]) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2).contiguous()


def floats(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.float() / 127.5 - 1



class Average:
    """Exponential moving average of weights."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay, self.values = decay, {n: p.detach().clone() for n, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: torch.nn.Module, step: int) -> None:
        decay = min(self.decay, (step + 1) / (step + 10))
        for name, parameter in model.named_parameters():
            self.values[name].lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def store(self, model: torch.nn.Module) -> None:
        for name, parameter in model.named_parameters():
            parameter.copy_(self.values[name])


def new_vae() -> AutoencoderKL:
    torch.manual_seed(1)
    vae = AutoencoderKL(in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(24, 48, 64), layers_per_block=1, norm_num_groups=8, sample_size=64,
                        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3)
    print(f"autoencoder: {sum(p.numel() for p in vae.parameters()):,} parameters", flush=True)
    return vae


def train_vae(vae: AutoencoderKL, seconds: float, peak: float, flat: torch.Tensor, rng: random.Random) -> AutoencoderKL:
    """Trains whatever of it wants gradients: all, or the decoder alone."""
    lined = pixels([pictures.draw_any(s, rng) if i % 2 else pictures.draw_ink(s) for i, s in enumerate(pictures.scene(rng) for _ in range(3000))])
    optimizer = torch.optim.AdamW([p for p in vae.parameters() if p.requires_grad], lr=0, betas=(0.9, 0.95), weight_decay=0.0)
    average = Average(vae, 0.995)
    batch, began, step = 12, time.process_time(), 0
    while (passed := time.process_time() - began) < seconds:
        half = batch // 2
        x = floats(torch.cat([flat[torch.randint(len(flat), (half,))], lined[torch.randint(len(lined), (half,))]]))
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        # Edges count besides the values: lines stay sharp.
        edges = sum((d(y) - d(x)).abs().mean() for d in (lambda t: t[..., 1:] - t[..., :-1], lambda t: t[..., 1:, :] - t[..., :-1, :]))
        loss = (y - x).abs().mean() + F.mse_loss(y, x) + edges + 2e-6 * posterior.kl().mean()
        optimizer.param_groups[0]["lr"] = peak * min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * passed / seconds)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(vae, step)
        if step % 50 == 0:
            print(f"autoencoder step {step} loss {loss.item():.4f} {passed:.0f} s", flush=True)
        step += 1
    average.store(vae)
    return vae.eval()


@torch.no_grad()
def latents_of(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([vae.encode(floats(images[i:i + 64])).latent_dist.mean for i in range(0, len(images), 64)])


def train_unet(seconds: float, latents: torch.Tensor, tokens: torch.Tensor, scheduler: DDIMScheduler, vocabulary: int) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    torch.manual_seed(2)
    text = CLIPTextModel(CLIPTextConfig(vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=2, num_attention_heads=4, projection_dim=WIDTH,
                                        max_position_embeddings=77, bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1, pad_token_id=vocabulary - 1))
    unet = UNet2DConditionModel(sample_size=16, in_channels=4, out_channels=4, block_out_channels=(48, 80, 96), layers_per_block=1, cross_attention_dim=WIDTH, attention_head_dim=4,
                                norm_num_groups=8, down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
                                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"))
    both = torch.nn.ModuleDict({"text": text, "unet": unet})
    for name, model in both.items():
        print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    optimizer = torch.optim.AdamW(both.parameters(), lr=0, betas=(0.9, 0.98), weight_decay=0.01)
    average = Average(both, 0.998)
    alphas = scheduler.alphas_cumprod
    snr = alphas / (1 - alphas)
    empty = tokens[-1]
    batch, began, step, smooth = 24, time.process_time(), 0, 1.0
    while (passed := time.process_time() - began) < seconds:
        which = torch.randint(len(latents), (batch,))
        x, ids = latents[which], tokens[which].clone()
        ids[torch.rand(batch) < 0.1] = empty
        t = ((torch.arange(batch) + torch.rand(1)) / batch * 1000).long()  # stratified
        noise = torch.randn_like(x)
        noisy = scheduler.add_noise(x, noise, t)
        states = text(ids).last_hidden_state
        guess = unet(noisy, t, states).sample
        weight = torch.minimum(snr[t], torch.tensor(5.0)) / snr[t]
        loss = ((guess - noise).square().mean(dim=(1, 2, 3)) * weight).mean()
        optimizer.param_groups[0]["lr"] = 1.5e-3 * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * passed / seconds)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(both, step)
        smooth = 0.98 * smooth + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"unet step {step} loss {smooth:.4f} {passed:.0f} s", flush=True)
        step += 1
    average.store(both)
    return text.eval(), unet.eval()


def write_folder(out: Path, vae: AutoencoderKL, text: CLIPTextModel, unet: UNet2DConditionModel, scheduler: DDIMScheduler) -> None:
    names = {"vae": "diffusion_pytorch_model", "unet": "diffusion_pytorch_model", "text_encoder": "model"}
    for component, model in {"vae": vae, "unet": unet, "text_encoder": text}.items():
        model.save_pretrained(out / component)
        # Stable Diffusion's folders spell the text encoder's names with text_model.
        spell = lambda n: n if component != "text_encoder" or n.startswith("text_model.") else f"text_model.{n}"
        tensors = {spell(n): t.detach().to(torch.float16).contiguous() for n, t in model.state_dict().items() if not n.endswith("position_ids")}
        save_file(tensors, out / component / f"{names[component]}.safetensors", metadata={"format": "pt"})
    scheduler.save_pretrained(out / "scheduler")
    write_json(out / "model_index.json", {
        "_class_name": "StableDiffusionPipeline", "feature_extractor": [None, None], "image_encoder": [None, None], "requires_safety_checker": False,
        "safety_checker": [None, None], "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]})


def refine(folder: Path, seconds: float, flat: torch.Tensor, rng: random.Random) -> None:
    """Trains the decoder alone: latents stay what they are, so the UNet stays right."""
    vae = AutoencoderKL.from_pretrained(folder / "vae").float()
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(False)
    vae = train_vae(vae, seconds, 1.5e-3, flat, rng)
    tensors = {n: t.detach().to(torch.float16).contiguous() for n, t in vae.state_dict().items()}
    save_file(tensors, folder / "vae/diffusion_pytorch_model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def sheet(folder: Path, file: Path) -> None:
    """Four samples for each of PROMPTS, and below them pictures and what the autoencoder makes of them."""
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    rows = [[*pipe([prompt] * 4, num_inference_steps=25, guidance_scale=4.0, generator=torch.Generator().manual_seed(7)).images] for prompt in PROMPTS]
    rng = random.Random(9)
    for draw in (pictures.draw_flat, pictures.draw_ink):
        drawn = [draw(pictures.scene(rng)) for _ in range(4)]
        back = pipe.vae.decode(pipe.vae.encode(floats(pixels(drawn))).latent_dist.mean).sample
        back = ((back.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        rows += [drawn, [Image.fromarray(b) for b in back]]
    image = Image.new("RGB", (4 * 66 * (1 + (len(rows) - 1) // 7), 7 * 66))
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            image.paste(picture, ((c + 4 * (r // 7)) * 66, (r % 7) * 66))
    image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--vae-seconds", type=float, default=500, help="processor time for the autoencoder")
    parser.add_argument("--unet-seconds", type=float, default=1400, help="processor time for text model and UNet")
    parser.add_argument("--pictures", type=int, default=12000)
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--decoder-seconds", type=float, default=600, help="processor time for the decoder at the end")
    parser.add_argument("--refine", action="store_true", help="train only the decoder of the base in --output on")
    args = parser.parse_args()

    torch.set_num_threads(1)
    rng = random.Random(0)
    scenes = [pictures.scene(rng) for _ in range(args.pictures)]
    flat = pixels([pictures.draw_flat(s) for s in scenes])
    if args.refine:
        refine(args.output, args.decoder_seconds, flat, rng)
        if args.samples:
            sheet(args.output, args.samples)
        return
    captions = [s.caption for s in scenes]
    tokenizer_files(args.output / "tokenizer", captions, 300)
    tokenizer = CLIPTokenizer.from_pretrained(args.output / "tokenizer")
    tokens = tokenizer([*captions, ""], padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    print(f"{len(captions)} pictures, {len(tokenizer)} tokens, longest caption {int((tokens != tokens[0, -1]).sum(1).max())}", flush=True)

    vae = train_vae(new_vae(), args.vae_seconds, 2e-3, flat, rng)
    # What is trained on is what will be used: the rounded weights.
    vae.load_state_dict({n: t.half().float() for n, t in vae.state_dict().items()})
    latents = latents_of(vae, flat)
    scale = 1 / latents.std().item()
    vae.register_to_config(scaling_factor=round(scale, 5))
    # As Stable Diffusion's schedule, with more noise at its end: a small latent shows its mean through less.
    scheduler = DDIMScheduler(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.02, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    vae.save_pretrained(args.output / "vae")
    text, unet = train_unet(args.unet_seconds, latents * vae.config.scaling_factor, tokens, scheduler, len(tokenizer))
    write_folder(args.output, vae, text, unet, scheduler)
    refine(args.output, args.decoder_seconds, flat, rng)
    size = sum(f.stat().st_size for f in args.output.rglob("*") if f.is_file())
    print(f"{size:,} bytes in all, latent scale {vae.config.scaling_factor}")
    if args.samples:
        sheet(args.output, args.samples)


if __name__ == "__main__":
    main()
