"""Small pictures with captions, drawn from lists of shapes: what builtin:tiny-sd was trained on, and the demo's style.

A scene is one or two things of a colour on a background. Three ways to draw it:

- flat: filled shapes on a plain background (the tiny base knows only this one);
- ink: dark outlines and hatching on brown paper (the demo teaches it);
- any: random outlines, hatching and grain, so that the tiny VAE can show styles that the base does not know.

    python tests/tools/pictures.py --style ink --count 16 --output configs/demo_image

writes PNGs and metadata.csv. Seeded: the same command draws the same pictures.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw

SIZE = 64
FINE = 4  # drawn this much larger, then averaged

COLOURS = {"red": (214, 48, 49), "orange": (235, 137, 33), "yellow": (247, 205, 50), "green": (56, 158, 73), "blue": (45, 104, 214),
           "purple": (132, 67, 186), "pink": (239, 130, 178), "white": (245, 245, 245)}
BACKGROUNDS = {"blue": (158, 205, 245), "green": (178, 224, 168), "yellow": (250, 233, 165), "pink": (250, 205, 215), "grey": (196, 198, 204), "dark": (44, 48, 70)}
INK, PAPER = (40, 28, 24), (196, 154, 104)
BROWN, SKIN = (124, 82, 48), (244, 205, 172)


def ring(cx: float, cy: float, points: int, outer: float, inner: float, turn: float = -90.0) -> list[tuple[float, float]]:
    """A star's corners; with inner = outer a regular polygon."""
    angles = [math.radians(turn + 180.0 * i / points) for i in range(2 * points)]
    return [(cx + (outer if i % 2 == 0 else inner) * math.cos(a), cy + (outer if i % 2 == 0 else inner) * math.sin(a)) for i, a in enumerate(angles)]


def heart() -> list[tuple[float, float]]:
    ts = [2 * math.pi * i / 40 for i in range(40)]
    return [(16 * math.sin(t) ** 3 / 17, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 17) for t in ts]


def moon() -> list[tuple[float, float]]:
    outer = [(0.9 * math.cos(math.radians(a)), 0.9 * math.sin(math.radians(a))) for a in range(60, 301, 8)]
    inner = [(0.28 + 0.8 * math.cos(math.radians(a)), 0.78 * math.sin(math.radians(a))) for a in range(282, 77, -8)]
    return outer + inner


# Shapes in a square from -1 to 1, y downwards, drawn in this order; the fill is a role: the thing's colour, darker, or fixed.
THINGS = {
    "circle": [("ellipse", (-0.85, -0.85, 0.85, 0.85), "main")],
    "square": [("polygon", [(-0.75, -0.75), (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75)], "main")],
    "triangle": [("polygon", [(0, -0.85), (0.9, 0.75), (-0.9, 0.75)], "main")],
    "star": [("polygon", ring(0, 0.05, 5, 1.0, 0.42), "main")],
    "heart": [("polygon", heart(), "main")],
    "moon": [("polygon", moon(), "main")],
    "house": [("polygon", [(-0.7, -0.1), (0.7, -0.1), (0.7, 0.9), (-0.7, 0.9)], "main"), ("polygon", [(-0.95, -0.1), (0, -0.9), (0.95, -0.1)], "dark"),
              ("polygon", [(-0.2, 0.3), (0.2, 0.3), (0.2, 0.9), (-0.2, 0.9)], "brown")],
    "tree": [("polygon", [(-0.15, 0.2), (0.15, 0.2), (0.15, 0.95), (-0.15, 0.95)], "brown"), ("ellipse", (-0.75, -0.95, 0.75, 0.45), "main")],
    "flower": [("polygon", [(-0.07, 0.0), (0.07, 0.0), (0.07, 0.98), (-0.07, 0.98)], "leaf")]
              + [("ellipse", (x - 0.32, y - 0.32, x + 0.32, y + 0.32), "main") for x, y in ring(0, -0.35, 3, 0.42, 0.42)] + [("ellipse", (-0.22, -0.57, 0.22, -0.13), "dark")],
    "fish": [("polygon", [(0.4, 0), (0.98, -0.5), (0.98, 0.5)], "dark"), ("ellipse", (-0.95, -0.5, 0.6, 0.5), "main"), ("ellipse", (-0.68, -0.22, -0.48, -0.02), "ink")],
    "boat": [("polygon", [(-0.95, 0.35), (0.95, 0.35), (0.6, 0.85), (-0.6, 0.85)], "brown"), ("polygon", [(-0.05, -0.9), (0.05, -0.9), (0.05, 0.35), (-0.05, 0.35)], "ink"),
             ("polygon", [(0.1, -0.85), (0.8, 0.2), (0.1, 0.2)], "main"), ("polygon", [(-0.1, -0.6), (-0.65, 0.2), (-0.1, 0.2)], "main")],
    "mushroom": [("polygon", [(-0.25, 0.0), (0.25, 0.0), (0.32, 0.9), (-0.32, 0.9)], "cream"), ("polygon", [(math.cos(math.radians(a)) * 0.9, 0.1 + math.sin(math.radians(a)) * 0.9) for a in range(180, 361, 9)], "main"),
                 ("ellipse", (-0.5, -0.4, -0.2, -0.1), "cream"), ("ellipse", (0.15, -0.55, 0.45, -0.25), "cream")],
    "girl": [("polygon", [(-0.25, 0.5), (-0.08, 0.5), (-0.08, 0.98), (-0.25, 0.98)], "skin"), ("polygon", [(0.08, 0.5), (0.25, 0.5), (0.25, 0.98), (0.08, 0.98)], "skin"),
             ("ellipse", (-0.42, -1.0, 0.42, -0.1), "brown"), ("polygon", [(-0.2, -0.25), (0.2, -0.25), (0.55, 0.6), (-0.55, 0.6)], "main"), ("ellipse", (-0.3, -0.88, 0.3, -0.22), "skin"),
             ("ellipse", (-0.17, -0.62, -0.07, -0.5), "ink"), ("ellipse", (0.07, -0.62, 0.17, -0.5), "ink")],
}


@dataclass(frozen=True)
class Thing:
    name: str
    colour: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]
    background: str
    caption: str


def phrase(thing: Thing) -> str:
    article = "an" if thing.colour[0] in "aeiou" else "a"
    return f"{article} {thing.colour} {thing.name}"


def scene(rng: random.Random, names: list[str] | None = None, say_background: float = 0.5, pairs: float = 0.2) -> Scene:
    """A scene and its caption; `say_background` and `pairs` are the shares of captions and scenes that have them."""
    names = names or list(THINGS)
    background = rng.choice(list(BACKGROUNDS))
    colours = [c for c in COLOURS if not (c == "white" and background in ("yellow", "pink", "grey"))]
    if rng.random() < pairs:
        centres, radius = [(rng.uniform(0.27, 0.31), rng.uniform(0.44, 0.58)), (rng.uniform(0.69, 0.73), rng.uniform(0.44, 0.58))], (0.19, 0.23)
    else:
        centres, radius = [(rng.uniform(0.44, 0.56), rng.uniform(0.44, 0.56))], (0.3, 0.38)
    things = tuple(Thing(rng.choice(names), rng.choice(colours), x, y, rng.uniform(*radius)) for x, y in centres)
    caption = " and ".join(phrase(t) for t in things)
    if rng.random() < say_background:
        caption += f" on a {background} background"
    return Scene(things, background, caption)


def fills(colour: tuple[int, int, int]) -> dict[str, tuple[int, int, int]]:
    darker = tuple(int(c * 0.62) for c in colour)
    return {"main": colour, "dark": darker, "brown": BROWN, "leaf": (58, 122, 58), "ink": INK, "cream": (246, 236, 214), "skin": SKIN}


def shapes(thing: Thing, side: int):
    """The thing's shapes in pixels: (kind, coordinates, role)."""
    to = lambda x, y: ((thing.x + x * thing.radius) * side, (thing.y + y * thing.radius) * side)
    for kind, where, role in THINGS[thing.name]:
        if kind == "ellipse":
            yield kind, [to(where[0], where[1]), to(where[2], where[3])], role
        else:
            yield kind, [to(x, y) for x, y in where], role


def hatching(side: int, angle: float, gap: float, width: float) -> Image.Image:
    """Parallel strokes, as a mask."""
    mask = Image.new("L", (side, side))
    pen = ImageDraw.Draw(mask)
    dx, dy = math.cos(angle), math.sin(angle)
    offset = -side
    while offset < side:
        x, y = side / 2 - dy * offset, side / 2 + dx * offset
        pen.line([(x - dx * 2 * side, y - dy * 2 * side), (x + dx * 2 * side, y + dy * 2 * side)], fill=255, width=round(width))
        offset += gap
    return mask


def draw_flat(scene: Scene) -> Image.Image:
    side = SIZE * FINE
    image = Image.new("RGB", (side, side), BACKGROUNDS[scene.background])
    pen = ImageDraw.Draw(image)
    for thing in scene.things:
        roles = fills(COLOURS[thing.colour])
        for kind, where, role in shapes(thing, side):
            getattr(pen, kind)(where, fill=roles[role])
    return image.resize((SIZE, SIZE), Image.Resampling.BOX)


def draw_lines(scene: Scene, paper: tuple[int, int, int], ink: tuple[int, int, int], outline: float, gap: float, stroke: float, angle: float) -> Image.Image:
    """Outlines of `outline` pixels; shapes filled with strokes of their colour every `gap` pixels."""
    side = SIZE * FINE
    image = Image.new("RGB", (side, side), paper)
    for thing in scene.things:
        roles = fills(COLOURS[thing.colour])
        for i, (kind, where, role) in enumerate(shapes(thing, side)):
            inside = Image.new("L", (side, side))
            getattr(ImageDraw.Draw(inside), kind)(where, fill=255)
            image.paste(paper, mask=inside)
            strokes = inside if role == "ink" else ImageChops.multiply(inside, hatching(side, angle + 0.5 * i, gap * FINE, stroke * FINE))
            image.paste(roles[role], mask=strokes)
            pen = ImageDraw.Draw(image)
            width = max(1, round(outline * FINE))
            if kind == "ellipse":
                pen.ellipse(where, outline=ink, width=width)
            else:
                pen.line([*where, where[0], where[1]], fill=ink, width=width, joint="curve")
    return image.resize((SIZE, SIZE), Image.Resampling.BOX)


def draw_ink(scene: Scene) -> Image.Image:
    return draw_lines(scene, PAPER, INK, outline=1.7, gap=3.6, stroke=1.9, angle=math.radians(45))


def draw_any(scene: Scene, rng: random.Random) -> Image.Image:
    colour = lambda: tuple(rng.randrange(256) for _ in range(3))
    return draw_lines(scene, colour(), colour(), rng.uniform(0.7, 3.0), rng.uniform(2.5, 6.0), rng.uniform(1.0, 3.0), rng.uniform(0, math.pi))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--style", choices=["flat", "ink"], default="ink")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    rows = []
    names = list(THINGS)
    rng.shuffle(names)
    for i in range(args.count):
        # Every thing about as often as any other.
        drawn = scene(rng, [names[i % len(names)]] if i % 4 else names, say_background=0.0, pairs=0.0 if i % 4 else 1.0)
        name = f"{i:02}.png"
        (draw_ink if args.style == "ink" else draw_flat)(drawn).save(args.output / name, optimize=True)
        rows.append((name, drawn.caption))
    with (args.output / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file_name", "text"])
        writer.writerows(rows)
    print(f"{args.count} pictures in {args.output}")


if __name__ == "__main__":
    main()
