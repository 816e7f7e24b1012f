"""Equality of nested data with tensors in it."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor


def same(one: object, other: object) -> bool:
    """Return whether two values are equal, tensors bit for bit, whatever is nested in them."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if hasattr(one, "__dataclass_fields__"):
        return type(one) is type(other) and all(
            same(getattr(one, f.name), getattr(other, f.name))
            for f in fields(one)
            if f.compare  # such as the image that detections draw themselves on
        )
    return one == other
