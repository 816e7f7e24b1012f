"""The numbers that a view shows, apart from their drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from torch import Tensor

from detrscope.core.attention_map import AttentionMap

HIDDEN = {"json": False}  # metadata of a dataclass field that only drawing needs
DIGITS = 5  # significant digits of weights in JSON


@dataclass(frozen=True)
class ViewData:
    """Base of what each view shows: its data step returns one, its drawing step takes it.

    Attributes:
        heading: text above the figure.
        caption: model, layer, head, level, query and normalisation in one sentence.
    """

    heading: str
    caption: str

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values: maps as nested lists at token resolution, boxes in pixels."""
        return {f.name: _to_json(getattr(self, f.name)) for f in fields(self) if f.metadata != HIDDEN}


def _to_json(value: Any) -> Any:
    """Return a value as JSON; numbers that are not finite are null."""
    if isinstance(value, AttentionMap):
        return _map_to_json(value)
    if isinstance(value, Tensor):
        value = value.cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        return _array_to_json(np.asarray(value))
    if is_dataclass(value):
        return {f.name: _to_json(getattr(value, f.name)) for f in fields(value) if f.metadata != HIDDEN}
    if isinstance(value, Mapping):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _map_to_json(attention: AttentionMap) -> dict[str, Any]:
    levels = zip(attention.level_ids, attention.parts, strict=True)
    selection = _to_json(attention.selection)
    return {
        "site": selection.pop("site"),
        "rows": selection.pop("queries"),  # of the encoder they are tokens
        **selection,
        "caption": attention.caption,
        "mass": attention.mass,
        "levels": [{"level": level, "weights": _to_json(part)} for level, part in levels],
    }


def _array_to_json(values: np.ndarray) -> Any:
    if not np.issubdtype(values.dtype, np.floating):
        return values.tolist()
    flat = [float(f"{v:.{DIGITS}g}") if math.isfinite(v) else None for v in values.ravel().tolist()]
    return np.array(flat, dtype=object).reshape(values.shape).tolist()
