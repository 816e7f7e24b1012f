"""Shapes of annotation tools as boxes: rectangles, turned ones, polygons, ellipses and masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detrscope.data.dataset import Box

ELLIPSE_POINTS = 64  # of the polygon that an ellipse is kept as


@dataclass(frozen=True, slots=True)
class Shape:
    """One labelled shape of an image, in pixels."""

    label: str
    box_xywh: Box
    area: float  # of the shape, not of its box
    segmentation: Any = None  # as COCO writes it; None for an upright rectangle
    iscrowd: bool = False
    turned: bool = False  # whether it was a turned rectangle, of which only the upright box around it is used


def upright_rectangle(label: str, corners: Sequence[float], iscrowd: bool = False) -> Shape:
    """Return the shape of two opposite corners x, y, x, y in any order."""
    (left, right), (top, bottom) = sorted(corners[::2]), sorted(corners[1::2])
    width, height = right - left, bottom - top
    return Shape(label, (left, top, width, height), width * height, iscrowd=iscrowd)


def turned_rectangle(
    label: str, centre: Sequence[float], width: float, height: float, degrees: float
) -> Shape:
    """Return a rectangle that is turned clockwise around its centre; the box is the upright one around it."""
    if degrees % 360 == 0:
        x, y = centre
        return upright_rectangle(label, (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    corners = [(sx * width / 2, sy * height / 2) for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    flat = [value for dx, dy in corners for value in _turned(centre, dx, dy, degrees)]
    return polygon(label, [flat], turned=degrees % 90 != 0)


def ellipse(
    label: str,
    centre: Sequence[float],
    radii: Sequence[float],
    degrees: float = 0.0,
    iscrowd: bool = False,
) -> Shape:
    """Return an ellipse that is turned clockwise around its centre; the box touches it."""
    (x, y), (rx, ry) = centre, radii
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half_width, half_height = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    angles = [2 * math.pi * i / ELLIPSE_POINTS for i in range(ELLIPSE_POINTS)]
    points = [v for a in angles for v in _turned(centre, rx * math.cos(a), ry * math.sin(a), degrees)]
    box = (x - half_width, y - half_height, 2 * half_width, 2 * half_height)
    return Shape(label, box, math.pi * abs(rx * ry), [points], iscrowd)


def polygon(
    label: str, parts: Sequence[Sequence[float]], iscrowd: bool = False, turned: bool = False
) -> Shape:
    """Return the shape of polygons x, y, x, y, ... that are one object."""
    xs, ys = ([value for part in parts for value in part[start::2]] for start in (0, 1))
    box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
    area = sum(polygon_area(part) for part in parts)
    return Shape(label, box, area, [list(part) for part in parts], iscrowd, turned)


def polygon_area(points: Sequence[float]) -> float:
    """Return the area inside a polygon x, y, x, y, ..."""
    xs, ys = list(points[::2]), list(points[1::2])
    following = zip(xs[1:] + xs[:1], ys[1:] + ys[:1], strict=True)
    return abs(sum(x * y2 - x2 * y for x, y, (x2, y2) in zip(xs, ys, following, strict=True))) / 2


def _turned(centre: Sequence[float], dx: float, dy: float, degrees: float) -> tuple[float, float]:
    """Return the point dx, dy from the centre, turned around it; y points down, so that positive is clockwise."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return centre[0] + dx * cos - dy * sin, centre[1] + dx * sin + dy * cos
