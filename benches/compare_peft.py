"""Trains the same adapter with PEFT and with loradeck, in turn, and prints what each took.

    cargo build --release
    python benches/compare_peft.py                                   # SmolLM2-135M, 4 x 256, with and without recomputation
    python benches/compare_peft.py --shapes 4x256,4x1024 --checkpointing off
    python benches/compare_peft.py --shapes 1x256,1x512,1x1024,1x2048,1x4096 --without-peft   # memory by length
    python benches/compare_peft.py --device cuda:0 --base FOLDER --targets all-linear --rank 16 --shapes 4x1024   # bf16, on a GPU

Both sides: f32 (on a GPU a bf16 base and f32 adapters), the same base (PEFT gets it dequantised, as a safetensors folder, so that reading the
GGUF does not count against it), the same records cut to the same length, LoRA on q_proj and v_proj, the
loss on all tokens, AdamW, gradients clipped at 1. Each run is a process of its own; the two sides
alternate, so that a machine whose speed drifts treats them alike. Peak memory is the kernel's VmHWM
of the process, on a GPU that of its tensors; the time to the first step counts from the start of the
process (imports included). With `--quantize q4_k` loradeck's base is quantised, and PEFT's by
bitsandbytes to nf4.
Needs what tests/tools/requirements.txt lists.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGETS = "q_proj,v_proj"
WORDS = "the a patient doctor asks about pain in knee and says it began three days ago after work on field".split()


def peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def write_records(folder: Path, records: int, tokens: int) -> None:
    """Texts that are longer than `tokens` tokens."""
    rng = random.Random(7)
    with open(folder / "records.jsonl", "w", encoding="utf-8") as out:
        for _ in range(records):
            out.write(json.dumps({"text": " ".join(rng.choice(WORDS) for _ in range(tokens + 8))}) + "\n")


def dequantised(base: Path, cache: Path) -> Path:
    """The base as a Hugging Face folder in f32; written once."""
    if base.is_dir():
        return base
    name = f"{base.stem}-{hashlib.sha256(str(base.resolve()).encode()).hexdigest()[:8]}-f32"
    folder = cache / name
    if not (folder / "complete").exists():
        code = (
            "import sys, torch; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
            "parent, file, out = sys.argv[1:]\n"
            "read = AutoModelForCausalLM.from_pretrained(parent, gguf_file=file, dtype=torch.float32)\n"
            "config = read.config\n"
            "if hasattr(config, 'quantization_config'): del config.quantization_config\n"
            "plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)\n"
            "plain.load_state_dict(read.state_dict())\n"
            "plain.save_pretrained(out)\n"
            "AutoTokenizer.from_pretrained(parent, gguf_file=file).save_pretrained(out)\n"
        )
        subprocess.run([sys.executable, "-c", code, str(base.parent), base.name, str(folder)], check=True)
        (folder / "complete").touch()
    return folder


def peft_worker(job: dict) -> None:
    """One PEFT run in this process; prints its figures as JSON."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(job["threads"])
    torch.manual_seed(42)
    cuda = job["device"] != "cpu"
    device = torch.device(job["device"])
    more = {}
    if job["quantize"]:
        from transformers import BitsAndBytesConfig

        more = dict(device_map={"": device}, quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16))
    dtype = torch.bfloat16 if cuda else torch.float32
    model = AutoModelForCausalLM.from_pretrained(job["base"], dtype=dtype, attn_implementation="sdpa", **more)
    if not job["quantize"]:
        model.to(device)
    base_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    tokenizer = AutoTokenizer.from_pretrained(job["base"])
    model.config.use_cache = False
    if job["checkpointing"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    model = get_peft_model(model, LoraConfig(r=job["rank"], lora_alpha=job["rank"], target_modules=peft_targets(job["targets"]), task_type="CAUSAL_LM"))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0)
    texts = [json.loads(line)["text"] for line in open(job["records"], encoding="utf-8")]
    rows = [tokenizer(text)["input_ids"][: job["length"]] for text in texts]
    batch, seconds, first = job["batch"], [], None
    for step in range(job["warmup"] + job["steps"]):
        begin = time.perf_counter()
        ids = torch.tensor([rows[(step * batch + i) % len(rows)] for i in range(batch)], device=device)
        assert ids.shape == (batch, job["length"]), ids.shape
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=cuda):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
        first = first or time.time() - job["spawned"]
    seconds = seconds[job["warmup"] :]
    figures = {
        "tokens_per_second": batch * job["length"] * len(seconds) / sum(seconds),
        "step_seconds": statistics.median(seconds),
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if cuda else peak_bytes(),
        "base_bytes": base_bytes,
        "first_step_seconds": first,
        "loss": loss.item(),
    }
    print(json.dumps(figures))


def peft_targets(targets: str) -> str | list[str]:
    return targets if targets == "all-linear" else targets.split(",")


def run_peft(job: dict) -> dict:
    env = dict(os.environ, OMP_NUM_THREADS=str(job["threads"]), TOKENIZERS_PARALLELISM="false")
    job = dict(job, spawned=time.time())
    done = subprocess.run([sys.executable, __file__, "--worker", json.dumps(job)], env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"The PEFT run failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def targets_text(targets: str) -> str:
    return targets if targets == "all-linear" else f"[{targets}]"


def run_loradeck(job: dict, program: Path, base: Path) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "bench.yaml"
        config.write_text(
            f"base_model: {json.dumps(str(base))}\n"
            f"train_data_dir: {json.dumps(job['records'])}\n"
            f"output_dir: {json.dumps(folder + '/run')}\n"
            f"lora_rank: {job['rank']}\nlora_alpha: {job['rank']}\ntarget_modules: {targets_text(job['targets'])}\n"
            f"batch_size: {job['batch']}\nsequence_len: {job['length']}\ntrain_on_inputs: true\neval_split: 0\n"
            f"gradient_checkpointing: {str(job['checkpointing']).lower()}\ndevice: {job['device']}\nlr_scheduler: constant\n"
            + (f"quantize: {job['quantize']}\n" if job["quantize"] else "")
        )
        command = [program, "bench", config, "--json", "--steps", str(job["steps"]), "--warmup", str(job["warmup"])]
        env = dict(os.environ, RAYON_NUM_THREADS=str(job["threads"]))
        done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"The loradeck run failed:\n{done.stderr[-2000:]}")
    figures = json.loads(done.stdout)
    expected = job["batch"] * job["length"]
    if figures["tokens_per_step"] != expected:
        sys.exit(f"loradeck's steps had {figures['tokens_per_step']} tokens, not {expected}.")
    figures["step_seconds"] = figures["step_seconds"]["median"]
    return figures


def base_bytes(base: Path, quantize: str | None, peft_bytes: float) -> float:
    """The bytes of loradeck's base on the device: with q4_k 4.5 bits a weight, else PEFT's, both bf16."""
    if not quantize:
        return peft_bytes
    bits = {"q4_0": 4.5, "q4_1": 5.0, "q5_0": 5.5, "q5_1": 6.0, "q8_0": 8.5, "q4_k": 4.5, "q5_k": 5.5, "q6_k": 6.5625}
    weights = sum(file.stat().st_size for file in base.glob("*.safetensors")) / 2
    return weights * bits[quantize] / 8


def medians(runs: list[dict]) -> dict:
    keys = ["tokens_per_second", "step_seconds", "peak_memory_bytes", "first_step_seconds", "gemm_share", "base_bytes"]
    return {key: statistics.median(run[key] for run in runs) for key in keys if runs and key in runs[0]}


def row(name: str, figures: dict) -> str:
    share = f"   {figures['gemm_share']:.0%} of the GEMM rate" if "gemm_share" in figures else ""
    return (
        f"  {name:<9} {figures['tokens_per_second']:8.1f} tokens/s   step {figures['step_seconds']:7.3f} s   "
        f"peak {figures['peak_memory_bytes'] / 2**20:7.0f} MiB   first step after {figures['first_step_seconds']:6.2f} s{share}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf", help="a GGUF file or a Hugging Face folder")
    parser.add_argument("--loradeck", type=Path, default=ROOT / "target/release/loradeck", help="the program")
    parser.add_argument("--shapes", default="4x256", help="batch x length, several with commas: 4x256,1x1024")
    parser.add_argument("--checkpointing", choices=["off", "on", "both"], default="both", help="recomputation, on both sides")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N, on both sides")
    parser.add_argument("--targets", default=TARGETS, help="module names with commas, or all-linear")
    parser.add_argument("--quantize", help="quantise loradeck's base to this; PEFT's by bitsandbytes to nf4")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="measured steps of a run")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side; medians count")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--without-peft", action="store_true", help="loradeck alone")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "loradeck-compare", help="where the dequantised base is kept")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return peft_worker(json.loads(args.worker))
    for needed, fix in [(args.loradeck, "cargo build --release"), (args.base, "sh tests/tools/fetch_smollm2.sh models")]:
        if not needed.exists():
            sys.exit(f"{needed} does not exist: {fix}")
    shapes = [tuple(map(int, shape.split("x"))) for shape in args.shapes.split(",")]
    recomputation = {"off": [False], "on": [True], "both": [False, True]}[args.checkpointing]
    folder = None if args.without_peft else dequantised(args.base, args.cache)
    say = (lambda text: print(text, file=sys.stderr)) if args.json else print
    say(f"load average {os.getloadavg()[0]:.2f}, {args.threads} threads, {args.repeats} runs of {args.warmup} + {args.steps} steps each")
    results = []
    for batch, length in shapes:
        for checkpointing in recomputation:
            with tempfile.TemporaryDirectory() as data:
                write_records(Path(data), batch * 4, length)
                job = dict(
                    batch=batch, length=length, rank=args.rank, steps=args.steps, warmup=args.warmup, threads=args.threads,
                    checkpointing=checkpointing, device=args.device, targets=args.targets, quantize=args.quantize, base=str(folder), records=str(Path(data) / "records.jsonl"),
                )
                peft, loradeck = [], []
                for _ in range(args.repeats):
                    if not args.without_peft:
                        peft.append(run_peft(job))
                    loradeck.append(run_loradeck(job, args.loradeck, args.base))
            result = dict(batch=batch, length=length, checkpointing=checkpointing, loradeck=medians(loradeck), runs=dict(loradeck=loradeck, peft=peft))
            say(f"{batch} x {length}, recomputation {'on' if checkpointing else 'off'}")
            if peft:
                result["peft"] = medians(peft)
                say(row("PEFT", result["peft"]))
            say(row("loradeck", result["loradeck"]))
            if peft:
                a, b = result["loradeck"], result["peft"]
                result["ratio"] = {
                    "speed": a["tokens_per_second"] / b["tokens_per_second"],
                    "peak_memory": a["peak_memory_bytes"] / b["peak_memory_bytes"],
                    "first_step": a["first_step_seconds"] / b["first_step_seconds"],
                }
                if args.device != "cpu":
                    # What training takes beside the base itself, which PEFT's side counts.
                    ours = max(a["peak_memory_bytes"] - base_bytes(args.base, args.quantize, b["base_bytes"]), 0)
                    result["ratio"]["memory_above_base"] = ours / max(b["peak_memory_bytes"] - b["base_bytes"], 1)
                ratio = result["ratio"]
                say(f"  loradeck / PEFT: speed {ratio['speed']:.2f}, peak memory {ratio['peak_memory']:.3f}, time to the first step {ratio['first_step']:.3f}")
            results.append(result)
    if args.json:
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
