"""Scenes: dogs, cats and props on a background, with the box and the parts of every dog."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from detrscope.core.errors import UserError
from detrscope.synthetic.animal import draw_animal
from detrscope.synthetic.background import Background, draw_background
from detrscope.synthetic.props import draw_prop
from detrscope.synthetic.sketch import Cutout, Point

VERSION = 2  # another version draws other pixels from the same seed
MIN_SIZE, MAX_SIZE = 32, 2048
WITHOUT_DOGS = 0.25  # share of the images
MIN_VISIBLE = 0.3  # share of a dog that must be visible for it to be annotated
_KEPT_VISIBLE = 0.6  # share of a dog that no later object may hide
_SCALE = 2  # scenes are drawn at this scale, then reduced
_TRIES = 8  # positions tried for an object
_MIN_INSIDE = 0.75  # share of the pixels of a dog inside the image
_MAX_OUTSIDE = 0.2  # share of width and height outside the image
_SHADOW = 70  # opacity, of 255

Kind = Literal["dog", "cat", "prop"]


class Scene(NamedTuple):
    """Image with its annotations. Dogs are numbered from back to front."""

    image: np.ndarray  # [H, W, 3] uint8, RGB
    boxes_xyxy: np.ndarray  # [M, 4] float32, pixels, around the visible part of each dog
    parts: np.ndarray  # [H, W] uint8, as in `parts.NAMES`, 0 where there is no dog
    instance: np.ndarray  # [H, W] uint8: 1 + the row of the dog in boxes_xyxy, 0 where there is none
    visible: np.ndarray  # [M] float32, visible share of each dog


class _Item(NamedTuple):
    kind: Kind
    side: float  # longer side, pixels of the canvas
    ground: float  # row of the feet; unused where there is no ground


def draw_scene(seed: int, index: int, size: int = 160) -> Scene:
    """Draw a scene, which depends on these three arguments only.

    Args:
        seed: Random seed of the dataset, 0 or more.
        index: Index of the image, 0 or more.
        size: Width and height in pixels, 32 to 2048.

    Raises:
        UserError: an argument is out of its range.
    """
    if seed < 0 or index < 0 or not MIN_SIZE <= size <= MAX_SIZE:
        raise UserError(
            f"drawn dogs: seed={seed}, index={index}, size={size}: expected seed and index of 0 or more and a "
            f"size of {MIN_SIZE} to {MAX_SIZE}"
        )
    rng = np.random.default_rng([seed, index])
    side = size * _SCALE
    background = draw_background(rng, side)
    canvas = _Canvas(rng, background)
    for item in _draw_items(rng, background, side):
        canvas.add(item)
    pixels = np.asarray(background.image.reduce(_SCALE)).astype(np.int16)
    grain = rng.standard_normal((size, size, 1), dtype=np.float32) * rng.uniform(0.5, 5)
    image = np.clip(pixels + np.rint(grain).astype(np.int16), 0, 255).astype(np.uint8)
    return Scene(image, *_annotate(_reduce(canvas.labels), canvas.pixels))


class _Canvas:
    """Scene under construction: objects are pasted from back to front."""

    def __init__(self, rng: np.random.Generator, background: Background) -> None:
        side = background.image.width
        self.rng = rng
        self.background = background
        self.side = side
        self.light: Point = (rng.choice([-1, 1]) * 0.6, -0.8)
        self.labels = np.zeros((side, side), np.uint8)  # 16 x dog + part; 0 where there is no dog
        self.pixels: list[int] = []  # pixels of each whole dog

    def add(self, item: _Item) -> None:
        """Paste an object where no dog is hidden too much; leave it out where there is no such position."""
        rng = self.rng
        cutout = self._draw(item)
        solid = np.asarray(cutout.mask) > 0
        for outside in np.linspace(_MAX_OUTSIDE, 0, _TRIES).tolist():
            x, y = self._position(item, cutout, outside)
            top, left, bottom, right = max(y, 0), max(x, 0), y + cutout.mask.height, x + cutout.mask.width
            window = self.labels[top:bottom, left:right]
            inside = solid[top - y : top - y + window.shape[0], left - x : left - x + window.shape[1]]
            if self._fits(item, window, inside, int(solid.sum())):
                break
        else:
            return
        if self.background.horizon is not None or rng.random() < 0.3:
            self._shadow(cutout, x, y)
        self.background.image.paste(cutout.image, (x, y), cutout.mask)
        window[inside] = 0
        if item.kind == "dog":
            parts = cutout.parts[top - y : top - y + window.shape[0], left - x : left - x + window.shape[1]]
            window[inside] = parts[inside] + np.uint8(16 * len(self.pixels))
            self.pixels.append(int(solid.sum()))

    def _draw(self, item: _Item) -> Cutout:
        rng = self.rng
        mirror = bool(rng.random() < 0.5)
        light = (-self.light[0], self.light[1]) if mirror else self.light
        if item.kind == "prop":
            sketch = draw_prop(
                rng, light, {"room": True, "meadow": False, "paper": None}[self.background.kind]
            )
        else:
            sketch = draw_animal(rng, item.kind, light)
        tilt = 0.35 if self.background.horizon is None else 0.06
        return sketch.render(item.side, mirror, rng.uniform(-tilt, tilt))

    def _position(self, item: _Item, cutout: Cutout, outside: float) -> tuple[int, int]:
        """Return left and top, with at most the share `outside` of width and height beyond the border."""
        width, height = cutout.mask.size
        out, high = outside * width, outside * height
        x = self.rng.uniform(-out, self.side - width + out)
        if self.background.horizon is None:
            return round(x), round(self.rng.uniform(-high, self.side - height + high))
        y = item.ground + self.rng.uniform(-0.03, 0.03) * self.side - cutout.ground
        return round(x), round(min(max(y, -high), self.side - height + high))

    def _fits(self, item: _Item, window: np.ndarray, inside: np.ndarray, pixels: int) -> bool:
        if item.kind == "dog" and inside.sum() < _MIN_INSIDE * pixels:
            return False
        hidden = window[inside]
        if not self.pixels or not hidden.any():
            return True
        visible = np.bincount(self.labels[self.labels > 0] >> 4, minlength=len(self.pixels))
        visible = visible - np.bincount(hidden[hidden > 0] >> 4, minlength=len(self.pixels))
        return bool((visible >= _KEPT_VISIBLE * np.array(self.pixels)).all())

    def _shadow(self, cutout: Cutout, x: int, y: int) -> None:
        width = cutout.mask.width
        height = max(4, round(0.13 * width))
        shade = Image.new("L", (width, height))
        ImageDraw.Draw(shade).ellipse((0, 0, width - 1, height - 1), fill=_SHADOW)
        at = (x, round(y + cutout.ground - 0.6 * height))
        self.background.image.paste((30, 24, 60), (*at, at[0] + width, at[1] + height), shade)


def _draw_items(rng: np.random.Generator, background: Background, side: int) -> list[_Item]:
    """Draw the objects of a scene at random, from back to front."""
    dogs = 0 if rng.random() < WITHOUT_DOGS else int(rng.choice([1, 2, 3], p=[0.6, 0.28, 0.12]))
    cats = int(rng.choice([0, 1, 2], p=[0.45, 0.35, 0.2]))
    counts: dict[Kind, int] = {"dog": dogs, "cat": cats, "prop": int(rng.integers(1, 6))}
    items = []
    for kind in (kind for kind, count in counts.items() for _ in range(count)):
        share = rng.uniform(0.15, 0.42) if kind == "prop" else rng.uniform(0.17, 0.6)
        if kind != "prop" and dogs + cats > 2:
            share *= 0.8
        nearness = float(np.clip((share - 0.15) / 0.4 + rng.normal(0, 0.22), 0.06, 1.04))
        horizon = background.horizon or 0.0
        items.append(_Item(kind, share * side, (horizon + (1 - horizon) * nearness) * side))
    if background.horizon is None:
        return [items[i] for i in rng.permutation(len(items))]
    return sorted(items, key=lambda item: item.ground)


def _reduce(labels: np.ndarray) -> np.ndarray:
    """Return the most frequent of each 2 x 2 labels."""
    a, b, c, d = (labels[i::2, j::2] for i in (0, 1) for j in (0, 1))
    return np.where(
        (a == b) | (a == c) | (a == d), a, np.where((b == c) | (b == d), b, np.where(c == d, c, a))
    )


def _annotate(labels: np.ndarray, pixels: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return boxes, parts, instances and visibility of the dogs that are visible enough; labels of others become 0."""
    boxes, visible = [], []
    instance = np.zeros_like(labels)
    for dog, full in enumerate(pixels):
        here = (labels > 0) & (labels >> 4 == dog)
        share = float(here.sum()) * _SCALE**2 / full
        if share < MIN_VISIBLE:
            continue
        rows, columns = np.flatnonzero(here.any(1)), np.flatnonzero(here.any(0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        visible.append(min(share, 1.0))
        instance[here] = len(boxes)
    parts = np.where(instance > 0, labels & 15, 0).astype(np.uint8)
    return np.array(boxes, np.float32).reshape(-1, 4), parts, instance, np.array(visible, np.float32)
