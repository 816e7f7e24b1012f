"""Dogs, and cats as near misses: a body of parts in a pose, with a coat."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from detrscope.synthetic import head as heads
from detrscope.synthetic.parts import BODY, FUR, LEGS, PAWS, TAIL
from detrscope.synthetic.sketch import (
    Colour,
    Point,
    Shape,
    Sketch,
    blob,
    mix_paint,
    sketch_hue,
    slab,
    tone,
    tube,
)

Species = Literal["dog", "cat"]
Pose = Literal["stand", "sit", "lie"]
_COATS: tuple[Colour, ...] = (
    (150, 98, 58), (196, 142, 84), (228, 190, 134), (244, 228, 200), (246, 242, 238), (112, 72, 48),
    (72, 64, 66), (140, 136, 142), (188, 96, 52), (214, 160, 110), (96, 104, 122), (168, 120, 92),
)  # fmt: skip


@dataclass(frozen=True)
class Body:
    """Joints of a body and their radii."""

    pose: Pose
    hip: Point
    shoulder: Point
    girth: float  # radius of the chest
    waist: float  # radius of the hips
    leg: float  # radius of a leg


def draw_animal(rng: np.random.Generator, species: Species, light: Point) -> Sketch:
    """Draw an animal that faces +x with its feet on y = 0."""
    sketch = Sketch(light, line=rng.uniform(0.022, 0.034))
    coat, second = _coat(rng)
    cat = species == "cat"
    body = _body(rng, cat)
    far = mix_paint(tone(coat, 0.78), (70, 50, 110), 0.1)
    socks = second if rng.random() < 0.45 else coat
    _tail(sketch, rng, body, cat, second if rng.random() < 0.3 else coat)
    _legs(sketch, rng, body, far, tone(socks, 0.8), near=False)
    neck = _neck(rng, body, cat)
    torso = _torso(body)
    sketch.solid(BODY, coat, torso, tube([body.shoulder, neck], [0.8 * body.girth, 0.55 * body.girth]))
    _fur(sketch, rng, body, coat, second, stripes=cat and rng.random() < 0.5)
    _legs(sketch, rng, body, coat, socks, near=True)
    if rng.random() < (0.15 if cat else 0.4):
        _collar(sketch, rng, body, neck)
    size = rng.uniform(0.31, 0.4) if cat else rng.uniform(0.35, 0.46)
    tilt = rng.uniform(-0.3, 0.3)
    with sketch.placed(*neck, angle=tilt, scale=size):
        (heads.cat if cat else heads.dog)(sketch, rng, coat, second)
    return sketch


def _coat(rng: np.random.Generator) -> tuple[Colour, Colour]:
    """Return the colour of the fur and of its markings. One coat in four has a colour that no dog has."""
    if rng.random() < 0.75:
        coat = _COATS[rng.integers(len(_COATS))]
        r, g, b = (int(np.clip(c + rng.integers(-14, 15), 30, 250)) for c in coat)
        coat = (r, g, b)
    else:
        coat = sketch_hue(rng.random(), rng.uniform(0.25, 0.6), rng.uniform(0.55, 0.95))
    if rng.random() < 0.5:
        return coat, tone(coat, rng.choice([0.5, 0.62, 1.6, 1.75]))
    other = _COATS[rng.integers(len(_COATS))]
    return coat, other


def _body(rng: np.random.Generator, cat: bool) -> Body:
    length = rng.uniform(0.7, 1.2)
    girth = rng.uniform(0.22, 0.28) if cat else rng.uniform(0.27, 0.38)
    waist = girth * rng.uniform(0.72, 0.98)
    leg = rng.uniform(0.055, 0.075) if cat else rng.uniform(0.07, 0.11)
    legs = girth + (rng.uniform(0.28, 0.5) if cat else rng.uniform(0.2, 0.6))
    pose: Pose = rng.choice(["stand", "sit", "lie"], p=[0.62, 0.26, 0.12])
    if pose == "stand":
        hip, shoulder = (-length / 2, -legs), (length / 2, -legs * rng.uniform(1.0, 1.08))
    elif pose == "sit":
        lean = rng.uniform(0.75, 1.1)
        reach = 0.8 * length
        hip = (-reach * math.cos(lean) / 2, -waist * 0.95)
        shoulder = (reach * math.cos(lean) / 2, -waist * 0.95 - reach * math.sin(lean))
    else:
        hip, shoulder = (-length / 2, -waist * 0.96), (length / 2, -girth * 1.05)
    return Body(pose, hip, shoulder, girth, waist, leg)


def _torso(body: Body) -> Shape:
    (x0, y0), (x1, y1) = body.hip, body.shoulder
    middle = (x0 * 0.45 + x1 * 0.55, y0 * 0.45 + y1 * 0.55 + 0.1 * body.girth)
    return tube([body.hip, middle, body.shoulder], [body.waist, 0.9 * body.girth, body.girth])


def _neck(rng: np.random.Generator, body: Body, cat: bool) -> Point:
    """Return the position of the head."""
    low = body.pose == "stand" and rng.random() < 0.12  # sniffing at the ground
    angle = rng.uniform(-0.35, 0.0) if low else rng.uniform(0.55, 1.25)
    reach = body.girth * 0.75 + (rng.uniform(0.22, 0.34) if cat else rng.uniform(0.28, 0.5))
    x, y = body.shoulder
    return x + reach * math.cos(angle), y - reach * math.sin(angle)


def _tail(sketch: Sketch, rng: np.random.Generator, body: Body, cat: bool, colour: Colour) -> None:
    x, y = body.hip[0] - 0.75 * body.waist, body.hip[1] - 0.35 * body.waist
    if body.pose != "stand":
        y = body.hip[1] + 0.3 * body.waist
    angle = rng.uniform(0.1, 1.3) if body.pose == "stand" else rng.uniform(0.0, 0.8)
    bend = rng.uniform(-0.5, 0.9)
    length, radius = (0.85, 0.05) if cat else (0.5, 0.07)
    length *= rng.uniform(0.75, 1.25) if cat else rng.uniform(0.45, 1.3)
    radius *= rng.uniform(0.85, 1.4)
    spine = [(x, y)]
    for _ in range(3):
        x, y = x - math.cos(angle) * length / 3, min(-radius, y - math.sin(angle) * length / 3)
        spine.append((x, y))
        angle += bend
    thick = (
        [radius, radius * 1.1, radius, radius * 0.85]
        if cat
        else [radius, radius * 1.25, radius, 0.4 * radius]
    )
    start = (body.hip[0], body.hip[1])
    sketch.solid(TAIL, colour, tube([start, *spine], [radius, *thick]))


def _legs(
    sketch: Sketch, rng: np.random.Generator, body: Body, colour: Colour, paws: Colour, *, near: bool
) -> None:
    """Draw the two legs of one side."""
    r, shift = body.leg, 0.0 if near else 0.13
    (hx, hy), (sx, sy) = body.hip, body.shoulder
    if body.pose == "stand":
        swing = rng.uniform(-0.3, 0.3, 2)
        hind, front = (hx - 0.02 + shift, hy + 0.1), (sx - 0.04 + shift, sy + 0.15)
        feet = [(hind[0] + swing[0], -r * 0.8), (front[0] + swing[1], -r * 0.8)]
        knees = [
            ((hind[0] + feet[0][0]) / 2 + 0.08, hind[1] * 0.55), ((front[0] + feet[1][0]) / 2 + 0.03, front[1] * 0.5)
        ]  # fmt: skip
        limbs = [tube([hind, knees[0], feet[0]], [2.1 * r, 1.25 * r, r]),
                 tube([front, knees[1], feet[1]], [1.7 * r, 1.15 * r, r])]  # fmt: skip
    elif body.pose == "sit":
        foot = sx + 0.02 + shift * 0.9 + rng.uniform(-0.05, 0.08)
        feet = [(hx + body.waist * 1.25 + shift, -r * 0.8), (foot, -r * 0.8)]
        thigh = blob(
            hx + 0.32 * body.waist + shift, -0.72 * body.waist, 0.8 * body.waist, 0.66 * body.waist, -0.35
        )
        limbs = [
            thigh,
            tube([(sx - 0.02 + shift, sy + 0.2), (foot + 0.01, sy * 0.4), (foot, -r)], [1.6 * r, 1.2 * r, r]),
        ]
    else:
        feet = [(hx + body.waist * 1.3 + shift, -r * 0.8), (sx + body.girth + 0.3 + shift, -r * 0.8)]
        thigh = blob(
            hx + 0.25 * body.waist + shift, -0.7 * body.waist, 0.85 * body.waist, 0.6 * body.waist, -0.2
        )
        elbow = (sx - 0.05 + shift, -1.3 * r)
        limbs = [thigh, tube([(sx - 0.05 + shift, sy * 0.5), elbow, (feet[1][0], -r)], [1.5 * r, 1.3 * r, r])]
    for limb, (x, y) in zip(limbs, feet, strict=True):
        sketch.solid(LEGS, colour, limb, glow=near)
        sketch.solid(PAWS, paws, blob(x + 0.55 * r, y, 1.55 * r, 1.0 * r), glow=False)


def _fur(
    sketch: Sketch, rng: np.random.Generator, body: Body, coat: Colour, second: Colour, *, stripes: bool
) -> None:
    """Draw spots, patches, a saddle, a pale belly or stripes on the body."""
    (x0, y0), (x1, y1) = body.hip, body.shoulder

    def on_back(t: float, up: float) -> Point:
        """Return a point along the body (0 hip, 1 shoulder) and across it (1 back, -1 belly)."""
        length = math.hypot(x1 - x0, y1 - y0) + 1e-9
        nx, ny = (y1 - y0) / length, -(x1 - x0) / length
        radius = body.waist + (body.girth - body.waist) * t
        return x0 + (x1 - x0) * t + nx * radius * up, y0 + (y1 - y0) * t + ny * radius * up

    along = math.atan2(y1 - y0, x1 - x0)
    g = body.girth
    kind = rng.random()
    marks: list[Shape] = []
    if stripes:
        for t in np.linspace(-0.1, 1.0, rng.integers(4, 7)):
            marks.append(tube([on_back(t, 1.1), on_back(t + 0.04, 0.1)], [0.035, 0.012]))
    elif kind < 0.2:
        for t in np.linspace(-0.2, 1.3, rng.integers(6, 10)):
            for up in (0.75, 0.2, -0.4):
                x, y = on_back(t + rng.uniform(-0.09, 0.09), up + rng.uniform(-0.25, 0.25))
                marks.append(blob(x, y, g * rng.uniform(0.1, 0.19), g * rng.uniform(0.1, 0.18)))
    elif kind < 0.5:
        for t in rng.uniform(-0.1, 1.1, rng.integers(1, 4)):
            x, y = on_back(t, rng.uniform(0.0, 0.9))
            marks.append(
                blob(x, y, g * rng.uniform(0.45, 0.85), g * rng.uniform(0.4, 0.8), rng.uniform(-1, 1))
            )
    elif kind < 0.65:
        marks.append(blob(*on_back(0.4, 0.8), 0.45, g * 0.95, along))
    elif kind < 0.8:
        second = tone(coat, 1.6)
        marks.append(blob(*on_back(0.7, -0.9), 0.55, g * 0.7, along))
    if marks:
        sketch.pattern(BODY, FUR, second, *marks)


def _collar(sketch: Sketch, rng: np.random.Generator, body: Body, neck: Point) -> None:
    (x0, y0), (x1, y1) = body.shoulder, neck
    angle = math.atan2(y1 - y0, x1 - x0)
    colour = sketch_hue(rng.random(), 0.8, 0.85)
    with sketch.placed(x0 + 0.38 * (x1 - x0), y0 + 0.38 * (y1 - y0), angle=angle):
        r = 0.74 * body.girth
        sketch.flat(BODY, colour, slab(-0.045, -r, 0.045, r))
        sketch.flat(BODY, (240, 200, 70), blob(0.0, r * 0.9, 0.055, 0.055))
