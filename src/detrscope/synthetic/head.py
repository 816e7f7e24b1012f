"""Heads of dogs and cats, side or front view. One unit is the radius of the head."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from detrscope.synthetic.parts import EARS, FUR, HEAD, MUZZLE
from detrscope.synthetic.sketch import Colour, Sketch, blob, mix_paint, polygon, sketch_hue, tone, tube

_INK: Colour = (28, 22, 30)
_PINK: Colour = (236, 138, 148)
_WHITE: Colour = (252, 252, 255)


class _Style(NamedTuple):
    """Variable features of the head of a dog."""

    ears: Colour
    muzzle: Colour
    pricked: bool
    patch: bool


def dog(sketch: Sketch, rng: np.random.Generator, coat: Colour, second: Colour) -> None:
    """Draw drooping or pricked ears and a muzzle with a nose and perhaps a tongue."""
    ears = second if rng.random() < 0.45 else tone(coat, 0.8)
    muzzle = second if rng.random() < 0.35 else tone(coat, rng.choice([1.25, 1.5]))
    style = _Style(ears, muzzle, pricked=rng.random() < 0.2, patch=rng.random() < 0.3)
    (_dog_front if rng.random() < 0.4 else _dog_side)(sketch, rng, coat, second, style)


def _dog_side(sketch: Sketch, rng: np.random.Generator, coat: Colour, second: Colour, style: _Style) -> None:
    ears, muzzle, pricked, patch = style
    long = rng.uniform(0.55, 1.05)
    drop = rng.uniform(0.35, 0.85)
    shade = tone(ears, 0.75)
    if pricked:
        far_ear = tube([(0.25, -0.5), (0.2, -1.0), (0.22, -1.45)], [0.3, 0.24, 0.05])
    else:
        far_ear = tube([(0.45, -0.75), (0.72, -0.55), (0.78, -0.1)], [0.2, 0.24, 0.2])
    sketch.solid(EARS, shade, far_ear, glow=False)
    sketch.solid(HEAD, coat, blob(0, 0, 1.0, 0.94))
    if patch:
        sketch.pattern(HEAD, FUR, second, blob(0.3, -0.3, 0.46, 0.5))
    tip = 0.55 + long
    if rng.random() < 0.35:
        sketch.solid(
            MUZZLE,
            _PINK,
            tube([(tip - 0.45, 0.7), (tip - 0.3, 0.98), (tip - 0.26, 1.1)], [0.16, 0.16, 0.14]),
            glow=False,
        )
    sketch.solid(MUZZLE, muzzle, tube([(0.4, 0.3), (0.75, 0.34), (tip, 0.34)], [0.56, 0.46, 0.34]))
    sketch.flat(
        MUZZLE, _INK, tube([(tip + 0.12, 0.52), (tip - 0.25, 0.62), (tip - 0.6, 0.5)], [0.035, 0.045, 0.03])
    )
    sketch.flat(MUZZLE, _INK, blob(tip + 0.18, 0.14, 0.24, 0.19, 0.2))
    sketch.flat(MUZZLE, (150, 145, 160), blob(tip + 0.14, 0.07, 0.08, 0.05))
    _eye(sketch, 0.34, -0.24, rng.uniform(0.9, 1.15))
    if pricked:
        sketch.solid(EARS, ears, tube([(-0.4, -0.5), (-0.5, -1.0), (-0.42, -1.5)], [0.36, 0.28, 0.05]))
    else:
        spine = [(-0.3, -0.62), (-0.72, -0.25), (-0.68 - 0.1 * drop, drop)]
        sketch.solid(EARS, ears, tube(spine, [0.22, 0.36, 0.26]))


def _dog_front(sketch: Sketch, rng: np.random.Generator, coat: Colour, second: Colour, style: _Style) -> None:
    ears, muzzle, pricked, patch = style
    yaw = rng.uniform(-0.1, 0.35)
    drop = rng.uniform(0.2, 0.75)
    if pricked:
        for s in (-1, 1):
            spine = [(0.5 * s, -0.55), (0.68 * s, -1.0), (0.72 * s, -1.5)]
            sketch.solid(EARS, ears, tube(spine, [0.34, 0.26, 0.05]))
            sketch.flat(
                EARS, mix_paint(ears, _PINK, 0.6), tube([(0.56 * s, -0.75), (0.7 * s, -1.25)], [0.15, 0.04])
            )
    sketch.solid(HEAD, coat, blob(0, 0, 1.0, 0.96))
    if patch:
        sketch.pattern(HEAD, FUR, second, blob(-0.38 + yaw, -0.2, 0.42, 0.5))
    if rng.random() < 0.4:
        sketch.solid(MUZZLE, _PINK, blob(yaw, 0.86, 0.19, 0.28), glow=False)
    sketch.solid(MUZZLE, muzzle, blob(-0.26 + yaw, 0.46, 0.4, 0.34), blob(0.26 + yaw, 0.46, 0.4, 0.34))
    sketch.flat(
        MUZZLE,
        _INK,
        tube([(yaw, 0.3), (yaw, 0.56)], [0.03, 0.03]),
        tube([(yaw - 0.36, 0.58), (yaw - 0.18, 0.68), (yaw, 0.56)], [0.03, 0.04, 0.03]),
        tube([(yaw + 0.36, 0.58), (yaw + 0.18, 0.68), (yaw, 0.56)], [0.03, 0.04, 0.03]),
    )
    sketch.flat(MUZZLE, _INK, blob(yaw, 0.2, 0.24, 0.18))
    sketch.flat(MUZZLE, (150, 145, 160), blob(yaw - 0.06, 0.13, 0.08, 0.05))
    for s in (-1, 1):
        _eye(sketch, 0.4 * s + 0.7 * yaw, -0.16, 1.0)
        if not pricked:
            spine = [(0.62 * s, -0.68), (1.0 * s, -0.35), (1.02 * s, drop)]
            sketch.solid(EARS, ears, tube(spine, [0.2, 0.32, 0.24]))


def cat(sketch: Sketch, rng: np.random.Generator, coat: Colour, second: Colour) -> None:
    """Draw pointed ears and whiskers, without a muzzle."""
    yaw = rng.uniform(-0.1, 0.4)
    for s in (-1, 1):
        ear = polygon([(s * 0.28 - 0.1 * s, -0.62), (s * 0.95, -0.3), (s * 0.82, -1.4)])
        sketch.solid(EARS, coat, ear, glow=False)
        inner = polygon([(s * 0.42, -0.68), (s * 0.8, -0.5), (s * 0.76, -1.12)])
        sketch.flat(EARS, mix_paint(coat, _PINK, 0.7), inner)
    sketch.solid(HEAD, coat, blob(0, 0, 1.06, 0.86))
    if rng.random() < 0.5:
        marks = [tube([(x, -0.95), (0.7 * x, -0.5)], [0.07, 0.03]) for x in (-0.3, 0.0, 0.3)]
        sketch.pattern(HEAD, FUR, second, *marks)
    iris = sketch_hue(rng.choice([0.14, 0.25, 0.32, 0.52]), 0.65, 0.85)
    for s in (-1, 1):
        x = 0.42 * s + 0.7 * yaw
        sketch.flat(HEAD, _INK, blob(x, -0.08, 0.25, 0.25))
        sketch.flat(HEAD, iris, blob(x, -0.08, 0.21, 0.21))
        sketch.flat(HEAD, _INK, blob(x, -0.08, 0.08, 0.19))
        sketch.flat(HEAD, _WHITE, blob(x - 0.08, -0.16, 0.06, 0.06))
    sketch.flat(HEAD, _PINK, polygon([(yaw - 0.12, 0.22), (yaw + 0.12, 0.22), (yaw, 0.36)]))
    sketch.flat(
        HEAD,
        _INK,
        tube([(yaw - 0.22, 0.46), (yaw - 0.1, 0.52), (yaw, 0.4)], [0.03, 0.03, 0.03]),
        tube([(yaw + 0.22, 0.46), (yaw + 0.1, 0.52), (yaw, 0.4)], [0.03, 0.03, 0.03]),
    )
    ink = _INK if sum(coat) > 300 else (225, 225, 230)
    for s in (-1, 1):
        for k in (-1, 0, 1):
            whisker = tube(
                [(yaw + 0.4 * s, 0.34 + 0.07 * k), (yaw + 1.35 * s, 0.3 + 0.2 * k)], [0.025, 0.012]
            )
            sketch.flat(HEAD, ink, whisker)


def _eye(sketch: Sketch, x: float, y: float, size: float) -> None:
    sketch.flat(HEAD, _INK, blob(x, y, 0.25 * size, 0.29 * size))
    sketch.flat(HEAD, _WHITE, blob(x + 0.01, y + 0.01, 0.21 * size, 0.25 * size))
    sketch.flat(HEAD, (46, 30, 26), blob(x + 0.05 * size, y + 0.03, 0.15 * size, 0.19 * size))
    sketch.flat(HEAD, _WHITE, blob(x - 0.02 * size, y - 0.07, 0.065 * size, 0.075 * size))
