"""Writes what training is held against: PEFT's DoRA, and 50 steps of PEFT under torch's AdamW (f32, CPU).

    python tests/tools/make_training_fixtures.py    # llama_dora, steps50 and length_grouped.json in tests/fixtures

llama_dora/    as make_fixtures.py's llama_<case>: base, DoRA adapter, batch, logits, loss and gradients
               (grad....lora_magnitude_vector.weight among them).
steps50/<case> adapter/ (start), steps.json and final.safetensors (PEFT's state after the last step). The base is
               llama_tied_gqa. steps.json holds a pool of micro-batches, and for each of 50 steps the two it takes,
               its learning rate, loss and gradient norm. A step's loss is the mean over all unmasked tokens of its
               micro-batches.
               lora: torch's AdamW with weight decay and clipping, cosine schedule after warmup.
               dora: DoRA with rsLoRA on all linears, groups of peft.optimizers.create_loraplus_optimizer.
length_grouped.json
               what transformers' LengthGroupedSampler makes of a shuffled order: lengths, batch_size, shuffled, order.

Deterministic: fixed seeds, one thread. Needs tests/fixtures/llama_tied_gqa (make_fixtures.py).
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import make_fixtures as fixtures
import numpy as np
import torch
from make_fixtures import QKVO, ROOT, VOCAB, fresh, random_batch, save_adapter, sum_loss, tensors, write_json
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.utils import logging

STEPS = 50
SETTINGS = dict(learning_rate=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1, max_grad_norm=1.0, warmup_steps=5, total_steps=STEPS, loraplus_ratio=1.0)
CASES = {
    "lora": dict(lora=dict(target_modules=QKVO), settings={}),
    "dora": dict(lora=dict(target_modules="all-linear", use_dora=True, use_rslora=True), settings=dict(learning_rate=1e-3, loraplus_ratio=4.0)),
}


def make_dora(out: Path) -> None:
    """The same code as for the other bases, over one more case."""
    fixtures.CASES = {"dora": dict(config={}, lora=dict(target_modules="all-linear", use_dora=True), dtype=torch.bfloat16)}
    fixtures.make_llama(out)


def optimizer_of(model: torch.nn.Module, settings: dict) -> torch.optim.Optimizer:
    options = dict(betas=settings["betas"], eps=settings["eps"])
    if settings["loraplus_ratio"] == 1.0:
        parameters = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.AdamW(parameters, lr=settings["learning_rate"], weight_decay=settings["weight_decay"], **options)
    return create_loraplus_optimizer(model, torch.optim.AdamW, lr=settings["learning_rate"], loraplus_lr_ratio=settings["loraplus_ratio"],
                                     loraplus_weight_decay=settings["weight_decay"], **options)


def make_steps(out: Path, seed: int, name: str, case: dict) -> None:
    folder = fresh(out / "steps50" / name)
    settings = SETTINGS | case["settings"]
    base = AutoModelForCausalLM.from_pretrained(out / "llama_tied_gqa", dtype=torch.float32, attn_implementation="eager")
    torch.manual_seed(seed)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM", **case["lora"])).train()
    save_adapter(model, folder / "adapter", "llama_tied_gqa")
    optimizer = optimizer_of(model, settings)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(parameters) == sum(p.requires_grad for p in model.parameters())
    schedule = get_cosine_schedule_with_warmup(optimizer, settings["warmup_steps"], STEPS)
    rng = np.random.default_rng(seed)
    # Few distinct rows, met again and again, so that the loss really falls.
    pool = [random_batch(rng, [int(n) for n in rng.integers(6, 20, 2)], VOCAB) for _ in range(6)]
    steps = []
    for step in range(STEPS):
        chosen = [(2 * step) % 6, (2 * step + 1) % 6]
        total = sum(sum(label != -100 for row in pool[i]["labels"] for label in row[1:]) for i in chosen)
        summed = 0.0
        for i in chosen:
            ids, labels, mask = tensors(pool[i])
            part, _ = sum_loss(model(input_ids=ids, attention_mask=mask).logits, labels)
            (part / total).backward()
            summed += part.item()
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings["max_grad_norm"]).item()
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        steps.append({"step": step + 1, "lr": rate, "loss": summed / total, "grad_norm": norm, "tokens": total, "micro_batches": chosen})
    write_json(folder / "steps.json", {"settings": settings, "pool": pool, "steps": steps})
    final = get_peft_model_state_dict(model)
    save_file({k: v.detach().contiguous() for k, v in final.items()}, folder / "final.safetensors")
    norms = [s["grad_norm"] for s in steps]
    print(f"steps50/{name}: loss {steps[0]['loss']:.4f} -> {steps[-1]['loss']:.4f}, gradient norms {min(norms):.3f} .. {max(norms):.3f}, {len(final)} tensors")


def make_length_grouped(out: Path) -> None:
    rng = np.random.default_rng(11)
    cases = []
    for records, batch_size in [(1, 2), (7, 2), (40, 4), (100, 3), (1000, 4)]:
        lengths = rng.integers(1, 60, records).tolist()
        shuffled = torch.randperm(records, generator=torch.Generator().manual_seed(records)).tolist()
        order = get_length_grouped_indices(lengths, batch_size, generator=torch.Generator().manual_seed(records))
        cases.append({"lengths": lengths, "batch_size": batch_size, "shuffled": shuffled, "order": order})
    (out / "length_grouped.json").write_text(json.dumps(cases) + "\n", encoding="utf-8")
    print(f"length_grouped.json: {len(cases)} orders")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "tests/fixtures")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    make_dora(args.output)
    make_length_grouped(args.output)
    for seed, (name, case) in enumerate(CASES.items()):
        make_steps(args.output, 7 + seed, name, case)


if __name__ == "__main__":
    main()
