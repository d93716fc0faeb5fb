"""Checks an exported PEFT adapter: it loads in PEFT over the same base and gives loradeck's own logits.

    loradeck generate --base BASE --lora ADAPTER --prompt "My knee hurts." --logits logits.safetensors
    python tests/tools/check_peft.py --base BASE --adapter ADAPTER --logits logits.safetensors

BASE is a GGUF file (transformers dequantises it to f32), a Hugging Face folder or builtin:tiny-llama. The
logits file holds `input_ids` (i64 [T]) and `logits` (f32 [T,V]). Fails (exit code 1, one sentence)
when a key of the adapter is missing or unknown, when the adapter changes nothing, or when the logits
differ by more than --tolerance: max |a - b| / max |b|.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import warnings
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

BUILTIN = Path(__file__).resolve().parents[2] / "src/model/builtin"


def load_base(base: str) -> PreTrainedModel:
    path = BUILTIN / base.removeprefix("builtin:") if base.startswith("builtin:") else Path(base)
    if not path.exists():
        sys.exit(f"The base {path} does not exist.")
    options = dict(dtype=torch.float32, attn_implementation="eager")
    if path.is_file():
        return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, **options).eval()
    return AutoModelForCausalLM.from_pretrained(path, **options).eval()


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """PEFT only warns about keys that do not fit, and the adapter stays inert; here that is an error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = PeftModel.from_pretrained(model, folder).eval()
    bad = [str(w.message) for w in caught if re.search(r"missing|unexpected|adapter keys", str(w.message), re.I)]
    if bad:
        sys.exit(f"PEFT complains about the adapter's keys: {bad[0][:400]}")
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        stored = set(file.keys())
    expected = set(get_peft_model_state_dict(loaded, save_embedding_layers=False))
    if stored != expected:
        sys.exit(f"The adapter's keys differ from PEFT's: {len(expected - stored)} missing {sorted(expected - stored)[:3]}, {len(stored - expected)} unknown {sorted(stored - expected)[:3]}.")
    if not any(p.abs().max() > 0 for n, p in loaded.named_parameters() if "lora_B" in n):
        sys.exit("The adapter is inert: every lora_B is zero.")
    return loaded


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--logits", type=Path, required=True)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    for needed in (args.adapter / "adapter_config.json", args.adapter / "adapter_model.safetensors", args.logits):
        if not needed.is_file():
            sys.exit(f"{needed} does not exist.")
    file = load_file(args.logits)
    if "input_ids" not in file or "logits" not in file:
        sys.exit(f"{args.logits} needs the tensors input_ids and logits; it has {', '.join(sorted(file))}.")
    ids, ours = file["input_ids"].long().reshape(1, -1), file["logits"].float()
    config = json.loads((args.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    base = load_base(args.base)
    with torch.no_grad():
        bare = base(input_ids=ids).logits[0]
        model = load_adapter(base, args.adapter)
        theirs = model(input_ids=ids).logits[0]
    if ours.shape != theirs.shape:
        sys.exit(f"The logits' shapes differ: {list(ours.shape)} here, {list(theirs.shape)} in PEFT.")
    if not torch.isfinite(ours).all():
        sys.exit("The logits in the file are not finite.")
    moved, error = relative(theirs, bare), relative(ours, theirs)
    agree = (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()
    print(f"adapter: r {config['r']}, alpha {config['lora_alpha']}, {len(config['target_modules'])} target modules, PEFT key check passed")
    print(f"logits over {ids.shape[1]} tokens: the adapter moves them by {moved:.2e}; ours against PEFT's {error:.2e} (limit {args.tolerance:.0e}), same top token {agree:.1%}")
    if moved < 10 * args.tolerance:
        print(f"note: the adapter moves the logits by little ({moved:.2e}), so this comparison proves little")
    if moved == 0:
        sys.exit("The adapter is inert: it changes no logit.")
    if error > args.tolerance:
        sys.exit(f"The logits differ by {error:.2e}, more than {args.tolerance:.0e}.")


if __name__ == "__main__":
    main()
