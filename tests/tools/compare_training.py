"""Trains the same adapter on the same batches with loradeck and with PEFT, and holds every step's loss against the other's.

    python tests/tools/compare_training.py --loradeck target/release/loradeck --base models/SmolLM2-135M-Instruct.Q4_1.gguf
    python tests/tools/compare_training.py --loradeck target/debug/loradeck --base builtin:tiny-llama --use-dora --loraplus-ratio 4 --packing

PEFT makes the first A and B; loradeck begins from them (`init_from`), as a user would: a config file and `loradeck train
--headless`. PEFT trains over transformers' base in f32 (a GGUF dequantised by transformers), under torch's AdamW (with
--loraplus-ratio: PEFT's groups) and transformers' cosine schedule, on the batches that loradeck's seed gives: its shuffle, and
with --packing its rows, are computed here again; packed records are rows of their own for PEFT. The number of tokens of every
step must be the one in loradeck's event log. Dropout is off: the two draw other masks.

Prints the largest relative difference of loss and gradient norm over all steps, and of the adapters at the end; exit code 1
when a loss differs by more than --tolerance.
"""

from __future__ import annotations

import argparse
import bisect
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported

import torch
import torch.nn.functional as F
from check_peft import BUILTIN, load_base
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file
from transformers import AutoTokenizer, get_cosine_schedule_with_warmup
from transformers.utils import logging

ROOT = Path(__file__).resolve().parents[2]
M32, M64 = (1 << 32) - 1, (1 << 64) - 1


def splitmix64(x: int) -> int:
    z = (x + 0x9E3779B97F4A7C15) & M64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M64
    return z ^ (z >> 31)


def shuffled(items: list, seed: int, epoch: int, item: int) -> list:
    """loradeck's shuffle: Fisher-Yates with Philox4x32-10 keyed by seed, purpose (1), epoch and item (src/random.rs)."""
    mixed = splitmix64(seed ^ splitmix64((epoch + (1 << 56)) & M64))
    counter, words = 0, []

    def word() -> int:
        nonlocal counter, words
        if not words:
            c, k = [counter, 1, item, epoch & M32], [mixed & M32, mixed >> 32]
            for _ in range(10):
                a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
                c = [(b >> 32) ^ c[1] ^ k[0], b & M32, (a >> 32) ^ c[3] ^ k[1], a & M32]
                k = [(k[0] + 0x9E3779B9) & M32, (k[1] + 0xBB67AE85) & M32]
            counter, words = counter + 1, c
        return words.pop(0)

    def below(n: int) -> int:
        limit = M32 - ((M32 % n) + 1) % n
        while (x := word()) > limit:
            pass
        return x % n

    items = list(items)
    for i in range(len(items) - 1, 0, -1):
        j = below(i + 1)
        items[i], items[j] = items[j], items[i]
    return items


def packed(order: list[int], lengths: list[int], row_tokens: int) -> list[list[int]]:
    """loradeck's rows: best-fit decreasing, the row opened last where several are as tight (src/data/batches.rs)."""
    rows: list[list[int]] = []
    rooms: list[int] = []
    open_: dict[int, list[int]] = {}
    for record in sorted(order, key=lambda r: -lengths[r]):
        at = bisect.bisect_left(rooms, lengths[record])
        if at < len(rooms):
            room = rooms[at]
            row = open_[room].pop()
            if not open_[room]:
                rooms.pop(at)
        else:
            rows.append([])
            row, room = len(rows) - 1, row_tokens
        rows[row].append(record)
        if (left := room - lengths[record]) > 0:
            open_.setdefault(left, []).append(row)
            if left not in rooms:
                bisect.insort(rooms, left)
    return rows


def steps_of(args: argparse.Namespace, lengths: list[int]) -> list[list[list[int]]]:
    """The records of every micro-batch of every step."""
    steps, epoch = [], 0
    while len(steps) < args.steps:
        order = shuffled(list(range(len(lengths))), args.seed, epoch, 0)
        rows = shuffled(packed(order, lengths, args.sequence_len), args.seed, epoch, 1) if args.packing else [[r] for r in order]
        micro = [sum(rows[i:i + args.batch_size], []) for i in range(0, len(rows), args.batch_size)]
        steps += [micro[i:i + args.accumulation] for i in range(0, len(micro), args.accumulation)]
        epoch += 1
    return steps[:args.steps]


def dialogues(count: int) -> list[str]:
    texts = []
    for line in (ROOT / "configs/smollm2/dialogues.jsonl").read_text(encoding="utf-8").splitlines()[:count]:
        texts.append("\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in json.loads(line)["messages"]))
    return texts


def tokenizer_of(base: str) -> object:
    path = BUILTIN / base.removeprefix("builtin:") if base.startswith("builtin:") else Path(base)
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name) if path.is_file() else AutoTokenizer.from_pretrained(path)


def run_loradeck(args: argparse.Namespace, folder: Path, texts: list[str]) -> tuple[list[dict], dict[str, torch.Tensor], float]:
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    base = args.base if args.base.startswith("builtin:") else str(Path(args.base).resolve())
    keys = dict(base_model=base, task_type="text-generation", train_data_dir=str(data), output_dir=str(folder / "run"), init_from=str(folder / "start"), device="cpu",
                lora_rank=args.rank, lora_alpha=2 * args.rank, target_modules=args.targets, use_rslora=args.use_rslora, use_dora=args.use_dora, loraplus_ratio=args.loraplus_ratio,
                batch_size=args.batch_size, gradient_accumulation_steps=args.accumulation, packing=args.packing, sequence_len=args.sequence_len, max_steps=args.steps,
                learning_rate=args.learning_rate, lr_scheduler="cosine", warmup_steps=args.warmup, weight_decay=args.weight_decay, max_grad_norm=1.0, seed=args.seed,
                eval_split=0, save_steps=10 * args.steps)
    config = folder / "config.yaml"
    config.write_text("".join(f"{k}: {json.dumps(v)}\n" for k, v in keys.items()), encoding="utf-8")
    began = time.monotonic()
    done = subprocess.run([args.loradeck, "train", config, "--headless"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seconds = time.monotonic() - began
    if done.returncode != 0:
        sys.exit(f"loradeck failed ({done.returncode}):\n{done.stdout}")
    lines = [json.loads(line) for file in sorted((folder / "run").glob("events.*.jsonl")) for line in file.read_text(encoding="utf-8").splitlines()]
    return [e for e in lines if e.get("type") == "step"], load_file(folder / "run/exports/peft/adapter_model.safetensors"), seconds


def micro_batch(records: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded ids, mask and labels."""
    width = max(map(len, records))
    ids = torch.tensor([r + [0] * (width - len(r)) for r in records])
    mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in records])
    return ids, mask, torch.where(mask.bool(), ids, -100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loradeck", required=True, help="the program")
    parser.add_argument("--base", required=True)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--records", type=int, default=144)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--sequence-len", type=int, default=256)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--targets", type=lambda s: s if s == "all-linear" else s.split(","), default=["q_proj", "v_proj"])
    parser.add_argument("--use-rslora", action="store_true")
    parser.add_argument("--use-dora", action="store_true")
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--loraplus-ratio", type=float, default=1.0)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")

    texts = dialogues(args.records)
    tokenizer = tokenizer_of(args.base)
    records = [tokenizer(t, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for t in texts]
    records = [r[:args.sequence_len] for r in records]
    steps = steps_of(args, [len(r) for r in records])

    torch.manual_seed(args.seed)
    lora = LoraConfig(r=args.rank, lora_alpha=2 * args.rank, lora_dropout=0.0, target_modules=args.targets, use_rslora=args.use_rslora, use_dora=args.use_dora, task_type="CAUSAL_LM")
    model = get_peft_model(load_base(args.base), lora).train()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model.save_pretrained(folder / "start", save_embedding_layers=False)
        logged, final, seconds = run_loradeck(args, folder, texts)
    print(f"loradeck: {len(logged)} steps in {seconds:.1f} s", flush=True)
    if [e["step"] for e in logged] != list(range(1, args.steps + 1)):
        sys.exit(f"loradeck logged the steps {[e['step'] for e in logged]}.")

    options = dict(betas=(0.9, 0.999), eps=1e-8)
    if args.loraplus_ratio == 1.0:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=args.learning_rate, weight_decay=args.weight_decay, **options)
    else:
        optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=args.learning_rate, loraplus_lr_ratio=args.loraplus_ratio, loraplus_weight_decay=args.weight_decay, **options)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    schedule = get_cosine_schedule_with_warmup(optimizer, args.warmup, args.steps)
    began, worst, worst_norm = time.monotonic(), (0.0, 0), 0.0
    for number, (micro, ours) in enumerate(zip(steps, logged), 1):
        tokens = sum(len(records[r]) for m in micro for r in m)
        if tokens != ours["tokens"]:
            sys.exit(f"step {number}: the batch has {tokens} tokens here, {ours['tokens']} in loradeck: order or token ids differ.")
        counted = sum(len(records[r]) - 1 for m in micro for r in m)
        summed = 0.0
        for m in micro:
            ids, mask, labels = micro_batch([records[r] for r in m])
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
            loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100, reduction="sum")
            (loss / counted).backward()
            summed += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0).item()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        theirs = summed / counted
        apart = abs(float(ours["loss"]) - theirs) / theirs
        worst = max(worst, (apart, number))
        worst_norm = max(worst_norm, abs(float(ours["grad_norm"]) - norm) / norm)
        if number in (1, args.steps) or number % 10 == 0:
            print(f"step {number:3d}: loradeck {float(ours['loss']):.6f}, PEFT {theirs:.6f}, {apart:.1e} apart", flush=True)
    print(f"PEFT: {args.steps} steps in {time.monotonic() - began:.1f} s")
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    if set(expected) != set(final):
        sys.exit(f"The adapters' keys differ: {sorted(set(expected) ^ set(final))[:4]}")
    start_scale = max(v.abs().max().item() for v in expected.values())
    furthest = max((expected[k] - final[k]).abs().max().item() for k in expected)
    print(f"losses at most {worst[0]:.1e} apart (step {worst[1]}; limit {args.tolerance:.0e}), gradient norms {worst_norm:.1e}; "
          f"the adapters' numbers {furthest:.1e} (largest {start_scale:.2g})")
    if worst[0] > args.tolerance:
        sys.exit(f"Step {worst[1]}'s losses differ by {worst[0]:.1e}, more than {args.tolerance:.0e}.")


if __name__ == "__main__":
    main()
