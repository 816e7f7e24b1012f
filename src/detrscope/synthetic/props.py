"""Props: furniture (some on four legs), plants and abstract shapes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from detrscope.synthetic.sketch import (
    OTHER,
    Colour,
    Point,
    Sketch,
    blob,
    mix_paint,
    polygon,
    sketch_hue,
    slab,
    tone,
    tube,
)

Prop = Callable[[Sketch, np.random.Generator], None]


def draw_prop(rng: np.random.Generator, light: Point, indoors: bool | None) -> Sketch:
    """Draw an object that stands on y = 0, of a room, of a meadow, or of either (`indoors` is None)."""
    choices = {True: _INDOORS, False: _OUTDOORS, None: (*_INDOORS, *_OUTDOORS)}[indoors]
    sketch = Sketch(light, line=0.022)
    choices[rng.integers(len(choices))](sketch, rng)
    return sketch


def _paint(rng: np.random.Generator) -> Colour:
    return sketch_hue(rng.random(), rng.uniform(0.2, 0.75), rng.uniform(0.45, 0.95))


def _wood(rng: np.random.Generator) -> Colour:
    return sketch_hue(rng.uniform(0.05, 0.1), rng.uniform(0.4, 0.65), rng.uniform(0.4, 0.75))


def _table(sketch: Sketch, rng: np.random.Generator) -> None:
    colour, height, width = _wood(rng), rng.uniform(0.45, 0.7), rng.uniform(0.5, 0.8)
    leg = rng.uniform(0.035, 0.06)
    for x, shade in ((-0.72, 0.75), (0.72, 0.75), (-0.9, 1.0), (0.9, 1.0)):
        foot = (x * width * 1.03, -0.1 if shade < 1 else -leg)
        limb = tube([(x * width, -height), foot], [leg * 1.15, leg * 0.8])
        sketch.solid(OTHER, tone(colour, shade), limb, glow=False)
    top = slab(-width, -height - 0.09, width, -height + 0.02)
    if rng.random() < 0.35:  # a cloth
        sketch.solid(OTHER, _paint(rng), slab(-0.7 * width, -height, 0.7 * width, -height + 0.16))
    sketch.solid(OTHER, colour, top)
    if rng.random() < 0.5:
        sketch.solid(OTHER, _paint(rng), slab(-0.1, -height - 0.26, 0.06, -height - 0.08))


def _chair(sketch: Sketch, rng: np.random.Generator) -> None:
    colour, seat = (_wood(rng) if rng.random() < 0.6 else _paint(rng)), rng.uniform(0.42, 0.55)
    leg, back = rng.uniform(0.03, 0.05), rng.uniform(0.45, 0.65)
    for x, shade in ((-0.2, 0.75), (0.3, 0.75), (-0.3, 1.0), (0.22, 1.0)):
        foot = (x * 1.12, -0.08 if shade < 1 else -leg)
        sketch.solid(OTHER, tone(colour, shade), tube([(x, -seat), foot], [leg, leg * 0.8]), glow=False)
    for x in (-0.33, -0.25):
        sketch.solid(OTHER, colour, tube([(x, -seat), (x - 0.06, -seat - back)], [leg, leg]), glow=False)
    for k in (0.45, 0.85):
        y = -seat - back * k
        sketch.solid(OTHER, colour, slab(-0.4, y - 0.06, -0.24, y + 0.06), glow=False)
    sketch.solid(OTHER, mix_paint(colour, _paint(rng), 0.5), slab(-0.36, -seat - 0.08, 0.34, -seat + 0.03))


def _sofa(sketch: Sketch, rng: np.random.Generator) -> None:
    colour, width = _paint(rng), rng.uniform(0.6, 0.9)
    for x in (-0.85, 0.85):
        sketch.solid(OTHER, (90, 62, 44), slab(x * width - 0.04, -0.14, x * width + 0.04, 0), glow=False)
    sketch.solid(OTHER, colour, tube([(-0.75 * width, -0.6), (0.75 * width, -0.6)], [0.2, 0.2]))
    sketch.solid(OTHER, tone(colour, 0.9), slab(-0.9 * width, -0.42, 0.9 * width, -0.1))
    for x in (-1, 1):
        arm = tube([(x * width, -0.48), (x * width, -0.2)], [0.13, 0.12])
        sketch.solid(OTHER, tone(colour, 1.1), arm)
    sketch.solid(OTHER, _paint(rng), blob(0.45 * width, -0.52, 0.17, 0.15, 0.5))


def _lamp(sketch: Sketch, rng: np.random.Generator) -> None:
    height = rng.uniform(0.8, 1.2)
    sketch.solid(
        OTHER, (110, 100, 100), blob(0, -0.03, 0.2, 0.05), tube([(0, 0), (0, -height)], [0.03, 0.025])
    )
    shade = polygon(
        [(-0.14, -height - 0.3), (0.14, -height - 0.3), (0.28, -height + 0.05), (-0.28, -height + 0.05)]
    )
    sketch.solid(OTHER, sketch_hue(rng.random(), 0.35, 0.98), shade)


def _plant(sketch: Sketch, rng: np.random.Generator) -> None:
    green = sketch_hue(rng.uniform(0.26, 0.42), rng.uniform(0.4, 0.7), rng.uniform(0.45, 0.75))
    for angle in rng.uniform(-1.1, 1.1, rng.integers(4, 8)):
        length = rng.uniform(0.45, 0.75)
        tip = (math.sin(angle) * length, -0.35 - math.cos(angle) * length)
        bend = (0.3 * tip[0], -0.35 - 0.6 * math.cos(angle) * length)
        leaf = tube([(0, -0.35), bend, tip], [0.03, 0.09, 0.02])
        sketch.solid(OTHER, tone(green, rng.uniform(0.8, 1.2)), leaf, glow=False)
    pot = polygon([(-0.22, -0.4), (0.22, -0.4), (0.16, 0), (-0.16, 0)])
    sketch.solid(OTHER, sketch_hue(rng.uniform(0.0, 0.1), 0.6, 0.75), pot)


def _tree(sketch: Sketch, rng: np.random.Generator) -> None:
    green = sketch_hue(rng.uniform(0.12, 0.4), rng.uniform(0.4, 0.7), rng.uniform(0.45, 0.75))
    high = rng.uniform(0.5, 0.9)
    trunk = tube([(0, -0.04), (rng.uniform(-0.06, 0.06), -high / 2), (0, -high)], [0.11, 0.075, 0.06])
    sketch.solid(OTHER, _wood(rng), trunk)
    count = int(rng.integers(4, 7))
    leaves = [blob(0, -high - 0.28, 0.34, 0.3)]
    for k in range(count):
        a = math.tau * k / count + rng.uniform(-0.2, 0.2)
        leaves.append(
            blob(0.32 * math.cos(a), -high - 0.25 + 0.22 * math.sin(a), rng.uniform(0.17, 0.27), 0.2)
        )
    sketch.solid(OTHER, green, *leaves)
    if rng.random() < 0.3:
        for _ in range(5):
            x, y = rng.uniform(-0.35, 0.35), -high - rng.uniform(0.05, 0.5)
            sketch.solid(OTHER, (215, 60, 56), blob(x, y, 0.045, 0.045), glow=False)


def _conifer(sketch: Sketch, rng: np.random.Generator) -> None:
    green = sketch_hue(rng.uniform(0.33, 0.45), rng.uniform(0.4, 0.6), rng.uniform(0.35, 0.6))
    sketch.solid(OTHER, _wood(rng), slab(-0.06, -0.25, 0.06, 0), glow=False)
    for k, width in enumerate((0.42, 0.34, 0.25)):
        y = -0.2 - 0.3 * k
        tier = polygon([(-width, y), (0, y - 0.55), (width, y)])
        sketch.solid(OTHER, tone(green, 0.95 + 0.08 * k), tier, glow=False)


def _bush(sketch: Sketch, rng: np.random.Generator) -> None:
    green = sketch_hue(rng.uniform(0.2, 0.4), rng.uniform(0.4, 0.7), rng.uniform(0.45, 0.75))
    leaves = [
        blob(x, -rng.uniform(0.16, 0.3), 0.24, 0.22) for x in np.linspace(-0.4, 0.4, rng.integers(3, 6))
    ]
    sketch.solid(OTHER, green, *leaves)
    for _ in range(rng.integers(0, 6)):
        flower = blob(rng.uniform(-0.4, 0.4), rng.uniform(-0.4, -0.1), 0.04, 0.04)
        sketch.flat(OTHER, _paint(rng), flower)


def _fence(sketch: Sketch, rng: np.random.Generator) -> None:
    colour = _wood(rng) if rng.random() < 0.6 else (238, 234, 226)
    for y in (-0.42, -0.2):
        sketch.solid(OTHER, tone(colour, 0.85), slab(-0.75, y - 0.05, 0.75, y + 0.03), glow=False)
    for x in np.linspace(-0.62, 0.62, 5):
        post = polygon([(x - 0.07, 0), (x - 0.07, -0.55), (x, -0.65), (x + 0.07, -0.55), (x + 0.07, 0)])
        sketch.solid(OTHER, colour, post, glow=False, depth=0.2)


def _stone(sketch: Sketch, rng: np.random.Generator) -> None:
    grey = sketch_hue(rng.random(), 0.08, rng.uniform(0.45, 0.75))
    sketch.solid(OTHER, grey, blob(0, -0.22, 0.42, 0.25), blob(0.3, -0.14, 0.26, 0.16))


def _ball(sketch: Sketch, rng: np.random.Generator) -> None:
    sketch.solid(OTHER, _paint(rng), blob(0, -0.5, 0.5, 0.5))
    stripe = tube([(-0.6, -0.4), (0, -0.62), (0.6, -0.4)], [0.1, 0.1, 0.1])
    sketch.pattern(OTHER, OTHER, _paint(rng), stripe)


def _block(sketch: Sketch, rng: np.random.Generator) -> None:
    count = int(rng.integers(3, 8))
    start = rng.uniform(0, math.tau)
    reach = rng.uniform(0.3, 0.6, count) if rng.random() < 0.5 else np.full(count, 0.5)
    corners = [
        (r * math.cos(start + math.tau * k / count), -0.5 + r * math.sin(start + math.tau * k / count))
        for k, r in enumerate(reach.tolist())
    ]
    sketch.solid(OTHER, _paint(rng), polygon(corners), glow=rng.random() < 0.5)


def _box(sketch: Sketch, rng: np.random.Generator) -> None:
    colour, width = mix_paint(_wood(rng), _paint(rng), 0.4), rng.uniform(0.3, 0.6)
    sketch.solid(OTHER, colour, slab(-width, -0.6, width, 0), glow=False, depth=0.12)
    sketch.pattern(OTHER, OTHER, _paint(rng), slab(-0.09, -0.7, 0.09, 0.1))


def _barrel(sketch: Sketch, rng: np.random.Generator) -> None:
    """Draw the shape of an animal's body without any parts."""
    angle = rng.uniform(-0.5, 0.5)
    x, y = 0.5 * math.cos(angle), 0.5 * math.sin(angle)
    colour = _paint(rng)
    sketch.solid(OTHER, colour, tube([(-x, -0.4 - y), (x, -0.4 + y)], [0.24, rng.uniform(0.12, 0.3)]))
    if rng.random() < 0.5:
        marks = [blob(rng.uniform(-0.6, 0.6), rng.uniform(-0.6, -0.2), 0.08, 0.08) for _ in range(6)]
        sketch.pattern(OTHER, OTHER, _paint(rng), *marks)


_SHAPES: tuple[Prop, ...] = (_ball, _block, _box, _barrel)
_INDOORS: tuple[Prop, ...] = (_table, _chair, _table, _chair, _sofa, _lamp, _plant, *_SHAPES)
_OUTDOORS: tuple[Prop, ...] = (_tree, _tree, _conifer, _bush, _fence, _stone, *_SHAPES)
