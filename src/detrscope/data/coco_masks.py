"""Masks as COCO writes them: polygons [[x1, y1, x2, y2, ...], ...] or run lengths {"size", "counts"}."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import mask as rle
from PIL import Image

from detrscope.data.parse_values import parse_integer, parse_number

MOST_PIXELS = 2**31  # of a mask; run lengths are 32 bits wide


@dataclass(frozen=True)
class PngSegment:
    """A segment of a panoptic PNG file: the pixels whose colour is its id."""

    path: Path
    id: int  # red + 256 green + 256^2 blue

    def mask(self, height: int, width: int) -> np.ndarray | None:
        """Return its pixels, bool [H, W]; None where the file is of another size or cannot be read."""
        try:
            ids = _segment_ids(self.path)
        except (OSError, ValueError, SyntaxError):
            return None
        return ids == self.id if ids.shape == (height, width) else None


@lru_cache(maxsize=2)  # the segments of an image follow one another
def _segment_ids(path: Path) -> np.ndarray:
    with Image.open(path, formats=["PNG"]) as image:
        if image.width * image.height >= MOST_PIXELS:
            raise ValueError("too many pixels")
        colours = np.asarray(image.convert("RGB"), dtype=np.int64)
    return np.asarray(colours @ (1, 256, 256 * 256), dtype=np.int64)


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray | None:
    """Return a mask as bool [H, W]; None where it is none, or of another size."""
    packed = pack_mask(segmentation, height, width)
    return None if packed is None else unpack_mask(packed) > 0


def pack_mask(segmentation: Any, height: int, width: int) -> dict[str, Any] | None:
    """Return a mask as compressed run lengths; None where it is none, or of another size."""
    try:
        if isinstance(segmentation, PngSegment):
            pixels = segmentation.mask(height, width)
            return None if pixels is None else encode_mask(pixels)
        if isinstance(segmentation, dict):
            packed = _run_lengths(segmentation, height, width)
        else:
            polygons = [[float(v) for v in polygon] for polygon in segmentation]
            shapes = [p for p in polygons if len(p) >= 6 and len(p) % 2 == 0 and np.isfinite(p).all()]
            packed = rle.frPyObjects(shapes, height, width) if shapes else None
        if packed is None:
            return None
        merged: dict[str, Any] = rle.merge(packed) if len(packed) > 1 else packed[0]
        rle.decode(merged)  # text of run lengths may be damaged
        return merged
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def unpack_mask(packed: dict[str, Any]) -> np.ndarray:
    """Return compressed run lengths as uint8 [H, W] of 0 and 1."""
    return np.ascontiguousarray(rle.decode(packed), dtype=np.uint8)


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask [H, W] as compressed run lengths that JSON can hold, as COCO's results have them."""
    packed = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    counts = packed["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": list(mask.shape), "counts": text}


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
