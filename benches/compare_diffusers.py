"""loradeck against diffusers + PEFT: images/s and peak memory of LoRA training on one UNet, as ratios in one run.

    cargo build --release
    python benches/compare_diffusers.py                 # about 3 minutes, needs the machine alone

The base is a Stable Diffusion 1 of half the widths with random weights, made here (UNet, text encoder, VAE, f32). Both
sides train rank 8 on the attentions' q, k, v and out, on cached latents and captions, at 256x256, batch 2, AdamW, f32,
without recomputation, with as many threads. Each side is a process of its own; its peak is its own VmHWM.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIDE, BATCH, STEPS, WARMUP = 256, 2, 6, 2


def make_base(folder: Path) -> None:
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    UNet2DConditionModel(sample_size=64, block_out_channels=(160, 320, 640, 640), cross_attention_dim=768, attention_head_dim=8).save_pretrained(folder / "unet")
    AutoencoderKL(block_out_channels=(32, 32, 64, 64), layers_per_block=1, latent_channels=4, norm_num_groups=16, down_block_types=("DownEncoderBlock2D",) * 4,
                  up_block_types=("UpDecoderBlock2D",) * 4).save_pretrained(folder / "vae")
    text = CLIPTextModel(CLIPTextConfig(vocab_size=604, hidden_size=768, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=12, bos_token_id=602, eos_token_id=603))
    text.save_pretrained(folder / "text_encoder")
    DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False).save_pretrained(folder / "scheduler")
    tokenizer = ROOT / "src/model/builtin/tiny-sd/tokenizer"
    (folder / "tokenizer").mkdir()
    for file in tokenizer.iterdir():
        (folder / "tokenizer" / file.name).write_bytes(file.read_bytes())
    index = ROOT / "src/model/builtin/tiny-sd/model_index.json"
    (folder / "model_index.json").write_bytes(index.read_bytes())


def make_pictures(folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    for i in range(BATCH):
        Image.effect_noise((SIDE, SIDE), 60 + i).convert("RGB").save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a red house and a green tree")


def theirs(base: Path) -> None:
    """The other side, in a process of its own: prints images/s and the peak as JSON."""
    import torch
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    trained = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    text = torch.randn(BATCH, 77, 768)
    seconds = []
    for step in range(WARMUP + STEPS):
        began = time.perf_counter()
        noise = torch.randn(BATCH, 4, SIDE // 8, SIDE // 8)
        guess = unet(torch.randn_like(noise), torch.randint(0, 1000, (BATCH,)), text).sample
        torch.nn.functional.mse_loss(guess, noise).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - began)
    peak = next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"images_per_second": BATCH * STEPS / sum(seconds[WARMUP:]), "peak_memory_bytes": peak}))


def run(*command: object) -> dict:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-500:]}{done.stderr[-1500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1] if "--theirs" in command else done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loradeck", type=Path, default=ROOT / "target/release/loradeck", help="the program")
    parser.add_argument("--theirs", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.theirs:
        theirs(args.theirs)
        return
    if not args.loradeck.exists():
        sys.exit(f"{args.loradeck} does not exist: cargo build --release")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_base(folder / "base")
        make_pictures(folder / "pictures")
        os.environ["LORADECK_CACHE"] = str(folder / "cache")
        config = folder / "run.yaml"
        config.write_text(f"base_model: {folder}/base\ntrain_data_dir: {folder}/pictures\noutput_dir: {folder}/run\nresolution: {SIDE}\nbatch_size: {BATCH}\nlora_rank: 8\n"
                          "learning_rate: 1e-4\neval_split: 0\ngradient_checkpointing: false\ndevice: cpu\n")
        bench = (args.loradeck, "bench", config, "--json", "--steps", STEPS, "--warmup", WARMUP)
        # The first makes the cache: what is compared is training.
        run(*bench)
        ours, other = run(*bench), run(sys.executable, __file__, "--theirs", folder / "base")
    for name, side in (("loradeck", ours), ("diffusers + PEFT", other)):
        print(f"{name:<18}{side['images_per_second']:.3f} images/s  {side['peak_memory_bytes'] / 2**30:.2f} GiB")
    print(f"{'ratio':<18}{ours['images_per_second'] / other['images_per_second']:.2f}x speed  {ours['peak_memory_bytes'] / other['peak_memory_bytes']:.2f}x memory")


if __name__ == "__main__":
    main()
