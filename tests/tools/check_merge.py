"""A base merged by loradeck equals PEFT's merge_and_unload, tensor by tensor.

    loradeck merge --base BASE --lora A[:w]... --output MERGED
    python tests/tools/check_merge.py --base BASE --adapter A [--adapter B] --weights 1.0 [0.5] --merged MERGED

BASE and MERGED are Hugging Face folders, or GGUF files (transformers dequantises them; then --tolerance must
allow for the type of the merged tensors). A folder's files must be the base's, in the same types, and load in
transformers. A weight other than 1 scales the adapter's own scaling in PEFT. Fails (exit code 1, one
sentence) otherwise. --tolerance: max |a - b| / max |b| per tensor.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported

import torch
from safetensors import safe_open
from transformers.utils import logging

from check_peft import load_adapter, load_base


def merged_by_peft(base: str, adapters: list[Path], weights: list[float]) -> dict[str, torch.Tensor]:
    model = load_base(base)
    for folder, weight in zip(adapters, weights, strict=True):
        loaded = load_adapter(model, folder)
        for module in loaded.modules():
            if hasattr(module, "scaling") and isinstance(module.scaling, dict):
                module.scaling = {name: value * weight for name, value in module.scaling.items()}
        model = loaded.merge_and_unload()
    return model.state_dict()


def check_files(base: Path, merged: Path) -> None:
    for file in sorted(base.iterdir()):
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as before, safe_open(merged / file.name, "pt") as after:
                names = lambda f: {key: (f.get_slice(key).get_dtype(), f.get_slice(key).get_shape()) for key in f.keys()}
                if names(before) != names(after):
                    sys.exit(f"{file.name} does not hold the same tensors in the same types.")
        elif file.is_file() and file.suffix in {".json", ".txt", ".jinja", ".model"}:
            if not (merged / file.name).is_file() or (merged / file.name).read_bytes() != file.read_bytes():
                sys.exit(f"{file.name} was not copied.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--adapter", type=Path, action="append", required=True)
    parser.add_argument("--weights", type=float, nargs="+", default=[1.0])
    parser.add_argument("--merged", required=True)
    parser.add_argument("--tolerance", type=float, default=1e-6)
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if Path(args.base).is_dir():
        check_files(Path(args.base), Path(args.merged))
    bare = {name: tensor.clone() for name, tensor in load_base(args.base).state_dict().items()}
    theirs = merged_by_peft(args.base, args.adapter, args.weights)
    ours = load_base(args.merged).state_dict()
    if ours.keys() != theirs.keys():
        sys.exit(f"The tensors differ: {sorted(ours.keys() ^ theirs.keys())[:4]}.")
    changed, worst, where = 0, 0.0, ""
    for name, tensor in theirs.items():
        if torch.equal(tensor, bare[name]):
            if not torch.equal(ours[name], bare[name]):
                sys.exit(f"{name} was changed, and no adapter touches it.")
            continue
        changed += 1
        error = ((ours[name].float() - tensor.float()).abs().max() / tensor.float().abs().max()).item()
        if error > worst:
            worst, where = error, name
    print(f"{changed} tensors changed by the merge; ours against merge_and_unload's {worst:.2e} at most (limit {args.tolerance:.0e}) {where}")
    if changed == 0:
        sys.exit("The merge changed nothing.")
    if worst > args.tolerance:
        sys.exit(f"{where} differs by {worst:.2e}.")


if __name__ == "__main__":
    main()
