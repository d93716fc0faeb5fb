"""Draws a folder of many different pictures with captions, to measure how they are scanned.

    python tests/tools/draw_pictures.py FOLDER [--count 10000] [--side 512]

Needs Pillow. The same arguments draw the same pictures. One in a hundred is there twice, one in a hundred in another
size too. What was measured with it stands in the README.
"""

from __future__ import annotations

import argparse
import random
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

COLOURS = ["red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "grey"]
SHAPES = ["disc", "box", "line", "wedge"]


def draw(job: tuple[str, int, int]) -> None:
    folder, index, side = job
    dice = random.Random(index)
    width, height = (round(side * dice.choice([0.75, 1, 1, 1.33])) for _ in range(2))
    picture = Image.linear_gradient("L").rotate(dice.choice([0, 90, 180, 270])).resize((width, height)).convert("RGB")
    picture = Image.blend(picture, Image.new("RGB", (width, height), dice.choice(COLOURS)), 0.6)
    brush = ImageDraw.Draw(picture)
    words = []
    for _ in range(dice.randrange(3, 12)):
        colour, shape = dice.choice(COLOURS), dice.choice(SHAPES)
        x, y = dice.randrange(width), dice.randrange(height)
        w, h = dice.randrange(8, width // 2), dice.randrange(8, height // 2)
        if shape == "disc":
            brush.ellipse([x, y, x + w, y + h], fill=colour)
        elif shape == "box":
            brush.rectangle([x, y, x + w, y + h], fill=colour)
        elif shape == "line":
            brush.line([x, y, x + w, y + h], fill=colour, width=dice.randrange(2, 20))
        else:
            brush.pieslice([x, y, x + w, y + h], dice.randrange(360), dice.randrange(360), fill=colour)
        words.append(f"{colour} {shape}")
    picture = picture.filter(ImageFilter.GaussianBlur(1))
    names = [f"{index:06d}"]
    if index % 100 == 7:
        names.append(f"{index:06d}-copy")
    for name in names:
        picture.save(Path(folder, f"{name}.jpg"), quality=90)
        Path(folder, f"{name}.txt").write_text(", ".join(words) + "\n")
    if index % 100 == 57:
        picture.resize((width * 4 // 5, height * 4 // 5), Image.LANCZOS).save(Path(folder, f"{names[0]}-small.png"))
        Path(folder, f"{names[0]}-small.txt").write_text(", ".join(words) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=512)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    jobs = [(str(arguments.folder), index, arguments.side) for index in range(arguments.count)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(draw, jobs, chunksize=50))
    print(f"{sum(1 for _ in arguments.folder.glob('*.[jp][pn]g'))} pictures in {arguments.folder}")


if __name__ == "__main__":
    main()
