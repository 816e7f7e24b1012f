"""Masks as COCO writes them: polygons [[x1, y1, x2, y2, ...], ...] or run lengths {"size", "counts"}."""

from __future__ import annotations

from typing import Any

import numpy as np
from hotcoco import mask as rle

from detrscope.data.parse_values import parse_integer, parse_number

MOST_PIXELS = 2**31  # of a mask; run lengths are 32 bits wide


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray | None:
    """Return a mask as bool [H, W]; None where it is none, or of another size."""
    try:
        if isinstance(segmentation, dict):
            packed = _run_lengths(segmentation, height, width)
        else:
            polygons = [[float(v) for v in polygon] for polygon in segmentation]
            shapes = [p for p in polygons if len(p) >= 6 and len(p) % 2 == 0 and np.isfinite(p).all()]
            packed = rle.frPyObjects(shapes, height, width) if shapes else None
        return None if packed is None else np.asarray(rle.decode(packed)).max(-1) > 0
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def coco_mask_box(segmentation: Any) -> list[float] | None:
    """Return the box [x, y, width, height] around a mask; None where it is none."""
    try:
        if isinstance(segmentation, dict):
            height, width = (parse_integer(side) or 0 for side in segmentation["size"])
            packed = _run_lengths(segmentation, height, width)
            return None if packed is None else [float(v) for v in rle.toBbox(packed)[0]]
        points = [[parse_number(v) for v in polygon] for polygon in segmentation]
        xs, ys = ([v for p in points for v in p[start::2] if v is not None] for start in (0, 1))
        if sum(map(len, points)) > len(xs) + len(ys):
            return None
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _run_lengths(segmentation: dict[str, Any], height: int, width: int) -> list[Any] | None:
    """Return run lengths as the decoder takes them; None where they are of another size."""
    counts = segmentation["counts"]
    if list(segmentation["size"]) != [height, width] or not 0 < height * width < MOST_PIXELS:
        return None
    if isinstance(counts, str | bytes):
        return [segmentation]
    counts = [parse_integer(count) for count in counts]
    if None in counts or min(counts) < 0 or sum(counts) != height * width:
        return None
    return [rle.frPyObjects({"size": [height, width], "counts": counts}, height, width)]
