"""Trains the same adapter of a Stable Diffusion 1.5 UNet with diffusers + PEFT and with loradeck.

    python benches/compare_diffusers_gpu.py --device cuda:0 --scratch /tmp/sd

The base has SD 1.5's shape and random weights. Both sides: bf16 base, f32 adapters of rank 16 on the attention's
q, k, v and output, 512 x 512, latents and text states computed beforehand, AdamW. Each run is a process of its own.
Needs torch, diffusers, transformers, peft and Pillow.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def write_base(folder: Path) -> None:
    """SD 1.5's configuration, random weights."""
    if (folder / "complete").exists():
        return
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(7)
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )
    text = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12))
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    for name, part in [("unet", unet), ("vae", vae), ("text_encoder", text)]:
        part.to(torch.bfloat16).save_pretrained(folder / name)
    scheduler.save_pretrained(folder / "scheduler")
    write_tokenizer(folder / "tokenizer")
    index = {
        "_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"], "scheduler": ["diffusers", "DDPMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "complete").touch()


def write_tokenizer(folder: Path) -> None:
    """CLIP's layout with letters only: captions need no more here."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(c) for c in range(33, 127)]
    words = letters + [letter + "</w>" for letter in letters]
    vocabulary = {word: i for i, word in enumerate(words)}
    vocabulary |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_images(folder: Path, count: int) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(7)
    for i in range(count):
        small = Image.frombytes("RGB", (16, 16), bytes(rng.randrange(256) for _ in range(16 * 16 * 3)))
        small.resize((512, 512), Image.Resampling.BICUBIC).save(folder / f"{i:03}.png")
        (folder / f"{i:03}.txt").write_text("a b c")


def diffusers_worker(job: dict) -> None:
    import torch
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    device, cuda = torch.device(job["device"]), job["device"] != "cpu"
    dtype = torch.bfloat16 if cuda else torch.float32
    torch.manual_seed(42)
    unet = UNet2DConditionModel.from_pretrained(job["base"], subfolder="unet", torch_dtype=dtype).to(device)
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=job["rank"], lora_alpha=job["rank"], target_modules=TARGETS))
    if job["checkpointing"]:
        unet.enable_gradient_checkpointing()
    trained = [p for p in unet.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    unet.train()
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    side = job["length"] // 8
    latents = torch.randn(job["batch"], 4, side, side, device=device, dtype=dtype)
    states = torch.randn(job["batch"], 77, 768, device=device, dtype=dtype)
    seconds, first = [], None
    for _ in range(job["warmup"] + job["steps"]):
        begin = time.perf_counter()
        noise = torch.randn_like(latents)
        steps = torch.randint(0, 1000, (job["batch"],), device=device)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=cuda):
            predicted = unet(latents + noise, steps, states).sample
        loss = torch.nn.functional.mse_loss(predicted.float(), noise.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
        first = first or time.time() - job["spawned"]
    seconds = seconds[job["warmup"] :]
    peak = torch.cuda.max_memory_allocated() if cuda else 0
    figures = {"images_per_second": job["batch"] * len(seconds) / sum(seconds), "step_seconds": statistics.median(seconds)}
    print(json.dumps(figures | {"peak_memory_bytes": peak, "first_step_seconds": first}))


def run_diffusers(job: dict) -> dict:
    command = [sys.executable, __file__, "--worker", json.dumps(dict(job, spawned=time.time()))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"The diffusers run failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_loradeck(job: dict, program: Path, scratch: Path) -> dict:
    config = scratch / "bench.yaml"
    config.write_text(
        f"base_model: {json.dumps(job['base'])}\ntrain_data_dir: {json.dumps(job['images'])}\noutput_dir: {json.dumps(str(scratch / 'run'))}\n"
        f"lora_rank: {job['rank']}\nlora_alpha: {job['rank']}\nbatch_size: {job['batch']}\nresolution: {job['length']}\neval_split: 0\n"
        f"cache_latents: true\ngradient_checkpointing: {str(job['checkpointing']).lower()}\ndevice: {job['device']}\nlr_scheduler: constant\n"
    )
    command = [program, "bench", config, "--json", "--steps", str(job["steps"]), "--warmup", str(job["warmup"])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"The loradeck run failed:\n{done.stderr[-2000:]}")
    figures = json.loads(done.stdout)
    figures["step_seconds"] = figures["step_seconds"]["median"]
    figures.setdefault("images_per_second", job["batch"] * job.get("accumulation", 1) / figures["step_seconds"])
    figures.pop("tokens_per_second", None)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--loradeck", type=Path, default=ROOT / "target/release/loradeck")
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    if "--worker" in sys.argv:
        return diffusers_worker(json.loads(sys.argv[sys.argv.index("--worker") + 1]))
    args = parser.parse_args()
    base, images = args.scratch / "base", args.scratch / "images"
    write_base(base)
    write_images(images, 4 * args.batch)
    results = []
    for checkpointing in [False, True]:
        job = dict(
            base=str(base), images=str(images), device=args.device, batch=args.batch, length=args.resolution, rank=args.rank,
            steps=args.steps, warmup=args.warmup, checkpointing=checkpointing,
        )
        runs = [(run_diffusers(job), run_loradeck(job, args.loradeck, args.scratch)) for _ in range(args.repeats)]
        keys = ["images_per_second", "step_seconds", "peak_memory_bytes", "first_step_seconds", "gemm_share"]
        peer, ours = ({key: statistics.median(run[i][key] for run in runs) for key in keys if key in runs[0][i]} for i in (0, 1))
        ratio = {"speed": ours["images_per_second"] / peer["images_per_second"]}
        results.append(dict(batch=args.batch, length=args.resolution, checkpointing=checkpointing, loradeck=ours, diffusers=peer, ratio=ratio))
        print(f"recomputation {'on' if checkpointing else 'off'}: {ratio['speed']:.2f} x diffusers", file=sys.stderr)
    print(json.dumps(results, indent=1) if args.json else results)


if __name__ == "__main__":
    main()
