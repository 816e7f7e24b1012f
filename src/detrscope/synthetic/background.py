"""Backgrounds: a meadow, a room or paper, with the position of the ground."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from detrscope.synthetic.sketch import Colour, mix_paint, sketch_hue, tone

Kind = Literal["meadow", "room", "paper"]


class Background(NamedTuple):
    """Background image and the ground on which objects stand."""

    image: Image.Image  # RGB
    kind: Kind
    horizon: float | None  # top of the ground, 0..1 of the height; None: no ground


def draw_background(rng: np.random.Generator, side: int) -> Background:
    """Draw a square background."""
    kind: Kind = rng.choice(["meadow", "room", "paper"], p=[0.38, 0.32, 0.3])
    if kind == "paper":
        return Background(_paper(rng, side), kind, None)
    horizon = rng.uniform(0.2, 0.5) if kind == "meadow" else rng.uniform(0.35, 0.6)
    painted = _meadow(rng, side, horizon) if kind == "meadow" else _room(rng, side, horizon)
    return Background(painted, kind, horizon)


def _ramp(size: tuple[int, int], top: Colour, bottom: Colour) -> Image.Image:
    """Return a vertical gradient between two colours."""
    share = np.linspace(0, 1, size[1])[:, None]
    rows = (np.array(top) * (1 - share) + np.array(bottom) * share).round().astype(np.uint8)  # [h, 3]
    return Image.fromarray(rows[:, None]).resize(size, Image.Resampling.NEAREST)


def _meadow(rng: np.random.Generator, side: int, horizon: float) -> Image.Image:
    sky = sketch_hue(rng.choice([0.55, 0.58, 0.62, 0.95, 0.1], p=[0.4, 0.3, 0.18, 0.05, 0.07]), 0.4, 0.97)
    grass = sketch_hue(
        rng.choice([0.22, 0.28, 0.33, 0.12, 0.4], p=[0.25, 0.3, 0.2, 0.15, 0.1]),
        0.45,
        rng.uniform(0.68, 0.9),
    )
    edge = round(horizon * side)
    image = _ramp((side, side), sky, mix_paint(sky, (255, 255, 255), 0.6))
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.4:
        x, y, r = rng.uniform(0.1, 0.9) * side, rng.uniform(0.05, horizon * 0.7) * side, 0.06 * side
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 236, 160))
    for _ in range(rng.integers(0, 4)):
        x, y, r = (
            rng.uniform(0, side),
            rng.uniform(0.02, horizon * 0.7) * side,
            rng.uniform(0.03, 0.06) * side,
        )
        for k, w in ((-1.2, 0.7), (0.0, 1.0), (1.2, 0.75)):
            draw.ellipse((x + (k - w) * r, y - w * r, x + (k + w) * r, y + 0.7 * w * r), fill=(252, 252, 255))
    for shade in (0.6, 0.3):  # hills
        colour = mix_paint(grass, sky, shade)
        start, wave, high = rng.uniform(0, math.tau), rng.uniform(2, 7), rng.uniform(0.03, 0.1) * side
        xs = np.linspace(0, 1, 17)
        ys = edge - high * (1 + np.sin(start + wave * xs))
        draw.polygon([*np.column_stack([xs * side, ys]).ravel().tolist(), side, side, 0, side], fill=colour)
    image.paste(_ramp((side, side - edge), tone(grass, 1.12), tone(grass, 0.78)), (0, edge))
    _blades(rng, image, grass, edge)
    return image


def _blades(rng: np.random.Generator, image: Image.Image, grass: Colour, edge: int) -> None:
    """Draw tufts and flowers, larger in front."""
    draw = ImageDraw.Draw(image)
    side = image.width
    points = rng.random((int(rng.integers(10, 45)), 3))
    petals = sketch_hue(rng.random(), 0.4, 0.98)
    for x, near, kind in points.tolist():
        y = edge + near * (side - edge)
        r = (0.006 + 0.014 * near) * side
        x *= side
        if kind < 0.75:
            colour = tone(grass, 0.68 if kind < 0.5 else 1.25)
            draw.polygon(
                (x - r, y, x - 1.3 * r, y - 2 * r, x, y - 0.4 * r, x + 0.3 * r, y - 2.6 * r, x + r, y),
                fill=colour,
            )
        else:
            draw.ellipse((x - 0.7 * r, y - 0.7 * r, x + 0.7 * r, y + 0.7 * r), fill=petals)
            draw.ellipse((x - 0.25 * r, y - 0.25 * r, x + 0.25 * r, y + 0.25 * r), fill=(250, 220, 90))


def _room(rng: np.random.Generator, side: int, horizon: float) -> Image.Image:
    wall = sketch_hue(rng.random(), rng.uniform(0.1, 0.4), rng.uniform(0.65, 0.95))
    floor = sketch_hue(rng.uniform(0.04, 0.12), rng.uniform(0.25, 0.55), rng.uniform(0.6, 0.88))
    edge = round(horizon * side)
    image = _ramp((side, side), tone(wall, 1.1), tone(wall, 0.9))
    draw = ImageDraw.Draw(image)
    paper = rng.random()
    if paper < 0.3:
        step = rng.uniform(0.05, 0.14) * side
        for x in np.arange(rng.uniform(-step, 0), side, step).tolist():
            draw.rectangle((x, 0, x + step / 2, edge), fill=tone(wall, 0.92))
    elif paper < 0.45:
        _dots(rng, draw, side, edge, tone(wall, 0.86))
    if rng.random() < 0.75:
        _wall_decoration(rng, draw, side, horizon)
    image.paste(_ramp((side, side - edge), tone(floor, 1.05), tone(floor, 0.8)), (0, edge))
    draw.rectangle((0, edge - 0.02 * side, side, edge + 0.012 * side), fill=tone(wall, 1.5))
    if rng.random() < 0.6:  # boards
        middle = rng.uniform(0.3, 0.7) * side
        for k in np.linspace(-3, 3, int(rng.integers(7, 14))).tolist():
            draw.line(
                (middle + 0.45 * k * side, edge, middle + 1.1 * k * side, side),
                fill=tone(floor, 0.75),
                width=2,
            )
    if rng.random() < 0.5:
        _rug(rng, draw, side, edge)
    return image


def _wall_decoration(rng: np.random.Generator, draw: ImageDraw.ImageDraw, side: int, horizon: float) -> None:
    """Draw a window or a painting on the wall."""
    w, h = rng.uniform(0.12, 0.3) * side, rng.uniform(0.4, 0.7) * horizon * side
    x, y = rng.uniform(0.02, 0.7) * side, rng.uniform(0.05, 0.2) * horizon * side
    frame, view = tone(sketch_hue(rng.random(), 0.3, 0.6), 1.0), sketch_hue(rng.uniform(0.5, 0.62), 0.4, 0.95)
    line = 0.014 * side
    draw.rectangle((x - line, y - line, x + w + line, y + h + line), fill=frame)
    if rng.random() < 0.55:
        draw.rectangle((x, y, x + w, y + h), fill=view)
        draw.rectangle((x, y + h * 0.7, x + w, y + h), fill=(150, 190, 120))
        draw.rectangle((x + w / 2 - line / 3, y, x + w / 2 + line / 3, y + h), fill=frame)
        draw.rectangle((x, y + h / 2 - line / 3, x + w, y + h / 2 + line / 3), fill=frame)
    else:
        draw.rectangle((x, y, x + w, y + h), fill=(244, 240, 230))
        for _ in range(3):
            cx, cy, r = (
                x + w * rng.uniform(0.25, 0.75),
                y + h * rng.uniform(0.25, 0.75),
                rng.uniform(0.1, 0.22) * min(w, h),
            )
            draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=sketch_hue(rng.random(), 0.6, 0.9))


def _rug(rng: np.random.Generator, draw: ImageDraw.ImageDraw, side: int, edge: int) -> None:
    x, y = rng.uniform(0.25, 0.75) * side, edge + rng.uniform(0.4, 0.7) * (side - edge)
    rx, ry = rng.uniform(0.2, 0.4) * side, rng.uniform(0.15, 0.3) * (side - edge)
    colours = sketch_hue(rng.random(), 0.45, 0.75), sketch_hue(rng.random(), 0.3, 0.9)
    for k, size in enumerate((1.0, 0.88, 0.76, 0.4)):
        draw.ellipse((x - rx * size, y - ry * size, x + rx * size, y + ry * size), fill=colours[k % 2])


def _paper(rng: np.random.Generator, side: int) -> Image.Image:
    """Return clouds of colour, a gradient, stripes, checks or dots."""
    first = sketch_hue(rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.55, 0.98))
    second = sketch_hue(rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.55, 0.98))
    kind = rng.random()
    if kind < 0.35:
        few = int(rng.integers(3, 8))
        share = rng.random((few, few, 1))
        cells = (np.array(first) * share + np.array(second) * (1 - share)).round().astype(np.uint8)
        return Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)
    image = _ramp((side, side), first, mix_paint(first, second, 0.5))
    draw = ImageDraw.Draw(image)
    soft = mix_paint(first, second, 0.35)
    step = rng.uniform(0.06, 0.2) * side
    if kind < 0.5:
        slope = rng.uniform(-1, 1) * side
        for x in np.arange(-side, 2 * side, step).tolist():
            draw.polygon((x, 0, x + step / 2, 0, x + step / 2 + slope, side, x + slope, side), fill=soft)
    elif kind < 0.62:
        for i, x in enumerate(np.arange(0, side, step).tolist()):
            for y in np.arange(step * (i % 2), side, 2 * step).tolist():
                draw.rectangle((x, y, x + step, y + step), fill=soft)
    elif kind < 0.8:
        _dots(rng, draw, side, side, soft)
    return image


def _dots(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, side: int, bottom: float, colour: Colour
) -> None:
    step = rng.uniform(0.07, 0.14) * side
    r = step * rng.uniform(0.15, 0.3)
    for i, x in enumerate(np.arange(step / 2, side, step).tolist()):
        for y in np.arange(step * (0.4 + 0.5 * (i % 2)), bottom, step).tolist():
            draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
