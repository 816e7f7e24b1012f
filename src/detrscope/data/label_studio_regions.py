"""Regions of Label Studio as shapes: percents of the image, turned around their first corner."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detrscope.core.json_schema import short_repr
from detrscope.data.parse_values import parse_boolean, parse_integer, parse_number
from detrscope.data.shapes import Shape, ellipse, polygon, turned_rectangle
from detrscope.data.validation_log import ValidationLog

_SHAPES = ("rectangle", "polygon", "ellipse")
# Results that say something about a region, or about the whole image, and are no region themselves.
_NOT_REGIONS = frozenset(
    {"labels", "relation", "choices", "taxonomy", "textarea", "rating", "number", "pairwise"}
)


def used_annotation(annotations: Sequence[Any]) -> tuple[Any, list[str]]:
    """Return the result of the annotation that is used, and why each other one is not.

    The ground truth is used, else the annotation that was updated last; never a cancelled one, or one without a result.
    The result is None where there is none to use: nobody has labelled the task.
    """
    rows = [row for row in annotations if isinstance(row, dict)]
    left_out = ["an annotation that is no object"] * (len(annotations) - len(rows))
    kept = [row for row in rows if parse_boolean(row.get("was_cancelled")) is not True]
    left_out += [f"annotation {_id(row)} was cancelled" for row in rows if row not in kept]
    left_out += [f"annotation {_id(row)} has no result" for row in kept if row.get("result") is None]
    kept = [row for row in kept if row.get("result") is not None]
    if not kept:
        return None, left_out

    def rank(position: int) -> tuple[bool, str, int]:
        row = kept[position]
        updated = row.get("updated_at") or row.get("created_at")
        return parse_boolean(row.get("ground_truth")) is True, str(updated or "")[:40], position

    best = max(range(len(kept)), key=rank)
    left_out += [
        f"annotation {_id(row)} is another version, {_id(kept[best])} is used"
        for position, row in enumerate(kept)
        if position != best
    ]
    return kept[best]["result"], left_out


def region_shapes(
    path: Path, place: str, result: Sequence[Any], validation: ValidationLog
) -> tuple[tuple[int, int], list[Shape]]:
    """Return the size of the image that regions declare (0, 0: none does), and their shapes."""
    rows = {position: row for position, row in enumerate(result) if isinstance(row, dict)}
    for position in sorted({*range(len(result))} - rows.keys()):
        row_text = short_repr(result[position], 40)
        validation.add("unused-shape", path, f"{place}region {position} is {row_text}, no object")
    size, shapes = (0, 0), []
    labels: dict[str, list[str]] = {}
    for row in rows.values():
        if row.get("type") == "labels":  # of a region that is another row of the same id
            labels.setdefault(str(row.get("id")), []).extend(_labels(row))
    regions = {str(row.get("id")) for row in rows.values() if not _is_no_region(row)}
    for position, row in rows.items():
        kind, where = row.get("type"), f"{place}region {position}"
        if _is_no_region(row):
            if kind == "labels" and str(row.get("id")) not in regions:
                reason = f"{where} is a list of labels of {_id(row)}, which is no region"
                validation.add("unused-shape", path, reason)
            continue
        shape = kind.removesuffix("labels") if isinstance(kind, str) else ""
        if shape not in _SHAPES:
            reason = f"{where} is of type {short_repr(kind, 40)}, which is not read as a box"
            validation.add("unused-shape", path, reason)
            continue
        width, height = (parse_integer(row.get(key)) or 0 for key in ("original_width", "original_height"))
        names = dict.fromkeys(_labels(row) or labels.get(str(row.get("id")), []))
        if parse_number(row.get("image_rotation") or 0) != 0:
            reason = f"{where} was drawn on the turned image (image_rotation {short_repr(row['image_rotation'], 20)})"
            validation.add("unused-shape", path, reason)
        elif not names:
            validation.add("unused-shape", path, f"{where} has no label")
        elif width <= 0 or height <= 0:
            validation.add("bad-box", path, f"{where}: expected original_width and original_height in pixels")
        else:
            size = (width, height)
            found = list(_shapes(shape, names, row.get("value"), width, height))
            if not found:
                value = short_repr(row.get("value"), 100)
                validation.add("bad-box", path, f"{where}: the {shape} is {value}, expected percents")
            shapes += found
    return size, shapes


def _is_no_region(row: dict[str, Any]) -> bool:
    """Return whether a result is about a region or the whole image, and no region itself."""
    kind = row.get("type")
    return isinstance(kind, str) and kind in _NOT_REGIONS


def _id(row: dict[str, Any]) -> str:
    return short_repr(row.get("id"), 24)


def _labels(row: dict[str, Any]) -> list[str]:
    """Return the labels of a result: the list under its own type, such as value.rectanglelabels."""
    value, kind = row.get("value"), row.get("type")
    labels = value.get(kind) if isinstance(value, dict) and isinstance(kind, str) else None
    rows = labels if isinstance(labels, list) else []
    return [label.strip() for label in rows if isinstance(label, str) and label.strip()]


def _shapes(kind: str, labels: Any, value: Any, width: int, height: int) -> Iterator[Shape]:
    """Yield the shape once for each label; none where a number is missing or not finite."""
    if not isinstance(value, dict):
        return
    across, down = width / 100, height / 100  # pixels of a percent
    if kind == "polygon":
        rows = value.get("points")
        pairs = rows if isinstance(rows, list) and all(isinstance(row, list) for row in rows) else []
        numbers = [parse_number(v) for row in pairs for v in row]
        points = [v * (down if i % 2 else across) for i, v in enumerate(numbers) if v is not None]
        if len(pairs) >= 3 and len(points) == len(numbers) == 2 * len(pairs):
            yield from (polygon(label, [points]) for label in labels)
        return
    names = ("x", "y", "width", "height") if kind == "rectangle" else ("x", "y", "radiusX", "radiusY")
    read = [parse_number(value.get(name)) for name in names]
    degrees = parse_number(value.get("rotation") or 0)
    if None in read or degrees is None:
        return
    x, y, w, h = (
        v * scale for v, scale in zip((v for v in read if v is not None), (across, down) * 2, strict=True)
    )
    if kind == "ellipse":
        yield from (ellipse(label, (x, y), (w, h), degrees) for label in labels)
        return
    # Turned around its first corner, not its centre.
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    centre = (x + w / 2 * cos - h / 2 * sin, y + w / 2 * sin + h / 2 * cos)
    yield from (turned_rectangle(label, centre, w, h, degrees) for label in labels)
