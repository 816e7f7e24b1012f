"""Values of foreign files: one meaning each, whatever type a tool has written them in."""

from __future__ import annotations

import math
from typing import Any

LARGEST_ID = 2**63 - 1  # ids travel through int64 tensors
TRUE, FALSE = frozenset({"1", "true", "yes"}), frozenset({"0", "false", "no", ""})


def integer(value: Any) -> int | None:
    """An integer, also where it was written as 7.0, "7" or "-7"; None for anything else, and beyond 64 bits."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        digits = text.removeprefix("-")
        if not digits.isdecimal() or len(digits) > 20:
            return None
        value = int(text)
    if isinstance(value, float):
        if not value.is_integer():
            return None
        value = int(value)
    return value if isinstance(value, int) and abs(value) <= LARGEST_ID else None


def number(value: Any) -> float | None:
    """A finite number, also where it was written as a string; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def boolean(value: Any) -> bool | None:
    """A truth value written as a boolean, a number 0 or 1, a string or null (no); None for anything else."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    if isinstance(value, str):
        text = value.strip().casefold()
        return True if text in TRUE else False if text in FALSE else None
    return None
