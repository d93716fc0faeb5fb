"""What diffusers makes of an image run's exports, against the checkpoint that they were made of.

    python tests/tools/check_image_adapter.py --base src/model/builtin/tiny-sd --run output/demo_image

Loads `exports/kohya` and `exports/diffusers` with `load_lora_weights` on the base (a diffusers folder of the kind of
Stable Diffusion 1) and compares A, scaled B and the number of adapted modules with the numbers in the newest
checkpoint. Fails with exit code 1 and one sentence.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from transformers.utils import logging


def trained(run: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A and alpha/r B by kohya's name, from the newest checkpoint."""
    file = sorted((run / "checkpoints").glob("step-*/adapter.safetensors"))[-1]
    tensors = load_file(file)
    names = {k.split(".")[0] for k in tensors}
    return {n: (a := tensors[f"{n}.lora_down.weight"], tensors[f"{n}.lora_up.weight"] * (tensors[f"{n}.alpha"].item() / a.shape[0])) for n in names}


def loaded(base: Path, file: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    pipe = StableDiffusionPipeline.from_pretrained(base)
    pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="x")
    found = {}
    for component, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_")):
        for name, module in getattr(pipe, component).named_modules():
            if isinstance(module, BaseTunerLayer) and "x" in module.scaling:
                spelled = name if component == "unet" or name.startswith("text_model.") else f"text_model.{name}"
                found[prefix + spelled.replace(".", "_")] = (module.lora_A["x"].weight.detach(), module.lora_B["x"].weight.detach() * module.scaling["x"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    args = parser.parse_args()
    logging.set_verbosity_error()
    diffusers_logging.set_verbosity_error()
    expected = trained(args.run)
    for file in ("exports/kohya/lora.safetensors", "exports/diffusers/pytorch_lora_weights.safetensors"):
        found = loaded(args.base, args.run / file)
        if found.keys() != expected.keys():
            sys.exit(f"{file}: {len(found)} modules are adapted, {len(expected)} expected: {sorted(found.keys() ^ expected.keys())[:3]}.")
        for name, (a, b) in expected.items():
            if not torch.equal(found[name][0].flatten(), a.flatten()):
                sys.exit(f"{file}: A of {name} differs.")
            if not torch.allclose(found[name][1].flatten(), b.flatten(), rtol=1e-6, atol=0):
                sys.exit(f"{file}: the scaled B of {name} differs.")
        print(f"{file} loads in diffusers; A, B and scale of {len(found)} modules are the checkpoint's")


if __name__ == "__main__":
    main()
