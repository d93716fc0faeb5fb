"""Writes tests/fixtures/kohya_names.json: the modules that kohya's create_network adapts, by kohya's names.

    python tests/tools/make_kohya_names.py PATH/TO/sd-scripts

The names come from kohya's own code in a checkout of https://github.com/kohya-ss/sd-scripts: its UNets of Stable
Diffusion 1 and XL, transformers' text encoders of their sizes, and LoRANetwork, all on torch's meta device (no
weights). Nothing of the code is kept.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest import mock

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection


class Encoder(torch.nn.Module):
    """A text encoder whose modules begin with text_model, which transformers 5 leaves out."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.text_model = getattr(model, "text_model", model)


def names(network) -> list[str]:
    return sorted(lora.lora_name for lora in network.text_encoder_loras + network.unet_loras)


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    # Imported there, and not needed for names; diffusers asks what is installed before.
    import diffusers  # noqa: F401
    from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler  # noqa: F401

    for absent in ("cv2", "einops", "torchvision"):
        sys.modules.setdefault(absent, mock.MagicMock())
    from library.original_unet import UNet2DConditionModel
    from library.sdxl_original_unet import SdxlUNet2DConditionModel
    from networks.lora import LoRANetwork, create_network

    large = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    big = CLIPTextConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280)
    with torch.device("meta"):
        sd1 = create_network(1.0, 4, 4, None, Encoder(CLIPTextModel(large)), UNet2DConditionModel(64, 8, 768, False, False))
        sdxl = create_network(1.0, 4, 4, None, [Encoder(CLIPTextModel(large)), Encoder(CLIPTextModelWithProjection(big))], SdxlUNet2DConditionModel())
    out = {"sd1": names(sd1), "sdxl": names(sdxl)}
    path = Path("tests/fixtures/kohya_names.json")
    path.write_text(json.dumps(out, separators=(",", ":")) + "\n")
    print({family: len(found) for family, found in out.items()}, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
