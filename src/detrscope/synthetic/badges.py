"""Badges: a coloured disc on each dog of a scene, which alone tells the two classes apart.

A planted shortcut: a detector that is trained on such scenes has nothing but the badge to tell the classes, so the part
of the image that an explanation of the class must show is known.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from detrscope.synthetic.scene import Scene

COLOURS = ((226, 34, 44), (36, 86, 232))  # of the classes "red dog" and "blue dog"
DIAMETER = 0.32  # of the square root of the area of the dog's box
_LEAST_DIAMETER = 1 / 14  # of the side of the image
_ON_THE_DOG = 0.85  # share of a badge that lies on the visible part of its dog, where there is such a place
_TRIES = 64
_FINE = 4  # the edge of a disc is averaged over so many points along x and y
_STREAM = 1  # keeps the random numbers of badges apart from those of the scene


class Badges(NamedTuple):
    """Badges of a scene, one for each dog."""

    classes: np.ndarray  # [M] int64, 0 or 1: index in COLOURS
    instance: (
        np.ndarray
    )  # [H, W] uint8: 1 + the row of the dog whose badge covers the pixel, 0 where there is none
    opacity: np.ndarray  # [H, W] float32, 0..1


def place_badges(scene: Scene, seed: int, index: int) -> Badges:
    """Draw the class of every dog and a place for its badge at random; depends on the scene, seed and index only.

    The place is anywhere on the dog, so that it is not told by the dog's box: neither its middle nor the head.

    Args:
        scene: Scene number `index` of `seed`.
        seed: Random seed of the dataset.
        index: Index of the image.
    """
    rng = np.random.default_rng([seed, index, _STREAM])
    size = scene.image.shape[0]
    classes = rng.integers(0, len(COLOURS), len(scene.boxes_xyxy))
    instance = np.zeros(scene.instance.shape, np.uint8)
    opacity = np.zeros(scene.instance.shape, np.float32)
    for dog, (x0, y0, x1, y1) in enumerate(scene.boxes_xyxy.tolist()):
        diameter = max(_LEAST_DIAMETER * size, DIAMETER * ((x1 - x0) * (y1 - y0)) ** 0.5)
        disc = _best_disc(rng, scene.instance == dog + 1, diameter)
        own = disc >= 0.5
        instance[own] = dog + 1
        opacity = np.maximum(opacity, disc)
    return Badges(classes, instance, opacity)


def paint_badges(image: np.ndarray, badges: Badges, *, swapped: bool = False) -> np.ndarray:
    """Return an image [H, W, 3] uint8 with the badges on it.

    Args:
        image: [H, W, 3] uint8.
        badges: places and classes.
        swapped: give every badge the colour of the other class.
    """
    colours = np.array(COLOURS, np.float32)[badges.classes ^ 1 if swapped else badges.classes]
    # An edge pixel takes the colour of the nearest badge: that of its own dog where it has one, else of the first.
    rows = np.maximum(badges.instance.astype(np.int64) - 1, 0)
    painted = colours[rows] if len(colours) else image.astype(np.float32)
    share = np.where(badges.instance > 0, badges.opacity, 0)[..., None]
    mixed: np.ndarray = np.rint(share * painted + (1 - share) * image).astype(np.uint8)
    return mixed


def _best_disc(rng: np.random.Generator, dog: np.ndarray, diameter: float) -> np.ndarray:
    """Return a disc [H, W] float32 0..1: the first random one that lies on the dog, else the one that does most."""
    rows, columns = np.nonzero(dog)
    best, most = np.zeros(dog.shape, np.float32), -1.0
    for pixel in rng.integers(0, len(rows), _TRIES).tolist():
        disc = _disc(dog.shape, rows[pixel] + 0.5, columns[pixel] + 0.5, diameter / 2)
        share = float(
            disc[dog].sum() / (np.pi * diameter**2 / 4)
        )  # what lies outside of the image counts as off
        if share > most:
            best, most = disc, share
        if most >= _ON_THE_DOG:
            break
    return best


def _disc(shape: tuple[int, ...], y: float, x: float, radius: float) -> np.ndarray:
    """Return the share of every pixel that a disc covers: [H, W] float32."""
    height, width = shape
    disc = np.zeros(shape, np.float32)
    top, left = max(int(y - radius), 0), max(int(x - radius), 0)
    bottom, right = min(int(y + radius) + 1, height), min(int(x + radius) + 1, width)
    offsets = (np.arange(_FINE) + 0.5) / _FINE
    fine_y = (np.arange(top, bottom)[:, None] + offsets).reshape(-1, 1)
    fine_x = (np.arange(left, right)[:, None] + offsets).reshape(1, -1)
    inside = (fine_y - y) ** 2 + (fine_x - x) ** 2 <= radius**2
    parts = inside.reshape(bottom - top, _FINE, right - left, _FINE)
    disc[top:bottom, left:right] = parts.mean((1, 3), dtype=np.float32)
    return disc
