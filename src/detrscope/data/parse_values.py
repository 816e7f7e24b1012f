"""Values of foreign files: one meaning each, whatever type a tool has written them in."""

from __future__ import annotations

import math
import re
from typing import Any

LARGEST_ID = 2**63 - 1  # ids travel through int64 tensors
TRUE, FALSE = frozenset({"1", "true", "yes"}), frozenset({"0", "false", "no", ""})
# Python's float() and int() also take 1_000, the digits of every script, "nan" and "inf".
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}(\.0{1,20})?", re.ASCII)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", re.ASCII)


def integer(value: Any) -> int | None:
    """An integer, also where it was written as 7.0, "7" or "-7"; None for anything else, and beyond 64 bits."""
    if isinstance(value, str):
        text = value.strip()
        if not _INTEGER.fullmatch(text):
            return None
        value = int(text.partition(".")[0])
    if isinstance(value, float):
        if not value.is_integer() or abs(value) > 2**53:  # beyond, a float is not the integer that was meant
            return None
        value = int(value)
    return value if type(value) is int and abs(value) <= LARGEST_ID else None


def number(value: Any) -> float | None:
    """A finite number, also where it was written as a string; None for anything else."""
    if isinstance(value, str):
        text = value.strip()
        if len(text) > 400 or not _NUMBER.fullmatch(text):
            return None
        value = float(text)
    if type(value) not in (int, float):
        return None
    try:
        found = float(value)
    except OverflowError:
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


def shown(value: Any, most: int = 160) -> str:
    """A foreign value in an error: on one line, and not longer than one."""
    try:
        text = repr(_short(value))
    except (RecursionError, ValueError):  # nested too deeply, or an integer of thousands of digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _short(value: Any, depth: int = 3) -> Any:
    """The beginning of a value: what YAML's aliases refer to again and again may be endless when it is printed."""
    if isinstance(value, str):
        return value[:400]
    if isinstance(value, dict):
        return {k: _short(v, depth - 1) for k, v in [*value.items()][:8]} if depth else {}
    if isinstance(value, list | tuple):
        return [_short(v, depth - 1) for v in value[:8]] if depth else []
    return value
