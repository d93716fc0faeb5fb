"""Makes tests/fixtures/kohya_buckets.json and tests/fixtures/pillow_resize.json.

    python tests/tools/make_image_fixtures.py PATH/TO/sd-scripts

The buckets come from kohya's own code: BucketManager and make_bucket_resolutions are taken out of
a checkout of https://github.com/kohya-ss/sd-scripts and run here; nothing of them is kept. The
resampling comes from Pillow: BOX to shrink, LANCZOS to grow.
"""

import ast
import json
import math
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Tuple

import numpy as np
from PIL import Image

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"


def taken_from(path, name, scope):
    """The definition of that name in a source file, executed in `scope`."""
    tree = ast.parse(path.read_text())
    node = next(n for n in tree.body if getattr(n, "name", None) == name)
    exec(compile(ast.Module([node], []), str(path), "exec"), scope)
    return scope[name]


def buckets(checkout):
    scope = {"np": np, "math": math, "random": random, "Tuple": Tuple}
    resolutions = taken_from(checkout / "library/model_util.py", "make_bucket_resolutions", scope)
    scope["model_util"] = SimpleNamespace(make_bucket_resolutions=resolutions)
    manager = taken_from(checkout / "library/train_util.py", "BucketManager", scope)
    draw = random.Random(1)
    sizes = [(512, 512), (768, 512), (512, 768), (1920, 1080), (1080, 1920), (640, 480), (300, 300)]
    sizes += [(draw.randint(64, 4000), draw.randint(64, 4000)) for _ in range(120)]
    cases = []
    for resolution, low, high, step in [
        (512, 256, 1024, 64),
        (1024, 512, 2048, 64),
        (768, 384, 1536, 32),
        (64, 32, 128, 8),
    ]:
        for no_upscale in (False, True):
            made = manager(no_upscale, (resolution, resolution), low, high, step)
            if not no_upscale:
                made.make_buckets()
            images = []
            for w, h in sizes:
                # Shapes that kohya itself cannot place (a bucket without pixels) are left out.
                try:
                    bucket, resized, _ = made.select_bucket(w, h)
                except (ZeroDivisionError, AssertionError):
                    continue
                if min(bucket) > 0:
                    images.append([w, h, *map(int, bucket), *map(int, resized)])
            cases.append(
                dict(resolution=resolution, min=low, max=high, step=step, no_upscale=no_upscale, images=images)
            )
    return cases


def resampling():
    draw = np.random.default_rng(1)
    cases = []
    for (w, h), (to_w, to_h) in [
        ((16, 12), (8, 6)),
        ((17, 13), (7, 5)),
        ((20, 9), (20, 4)),
        ((8, 6), (16, 12)),
        ((7, 5), (19, 11)),
        ((10, 6), (12, 4)),
        ((1, 3), (4, 8)),
    ]:
        # Neighbours are alike, as in pictures, with an edge in the middle.
        pixels = draw.integers(0, 60, (h, w, 3)) + np.arange(w)[None, :, None] * 4
        pixels[:, w // 2 :] += 90
        pixels = pixels.clip(0, 255).astype(np.uint8)
        smaller = w >= to_w and h >= to_h
        filter = Image.Resampling.BOX if smaller else Image.Resampling.LANCZOS
        out = np.asarray(Image.fromarray(pixels).resize((to_w, to_h), filter))
        cases.append(
            {"from": [w, h], "to": [to_w, to_h], "input": pixels.ravel().tolist(), "output": out.ravel().tolist()}
        )
    return cases


def write(name, value):
    (FIXTURES / name).write_text(json.dumps(value, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    write("kohya_buckets.json", buckets(Path(sys.argv[1])))
    write("pillow_resize.json", resampling())
