"""Parse values of third-party files, whatever type a tool wrote them in."""

from __future__ import annotations

import math
import re
from typing import Any

MAX_ID = 2**63 - 1  # ids are stored in int64 tensors
ROW_LENGTH = 160  # characters of a row or list in a message
TRUE, FALSE = frozenset({"1", "true", "yes"}), frozenset({"0", "false", "no", ""})
# Python's float() and int() also take 1_000, the digits of every script, "nan" and "inf".
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}(\.0{1,20})?", re.ASCII)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", re.ASCII)


def parse_integer(value: Any) -> int | None:
    """Return an integer that may be written as 7.0, "7" or "-7"; None for anything else, and beyond 64 bits."""
    if type(value) is int:  # by far the most
        return value if abs(value) <= MAX_ID else None
    if isinstance(value, str):
        text = value.strip()
        if not _INTEGER.fullmatch(text):
            return None
        value = int(text.partition(".")[0])
    if isinstance(value, float):
        if not value.is_integer() or abs(value) > 2**53:  # beyond, a float is not the integer that was meant
            return None
        value = int(value)
    return value if type(value) is int and abs(value) <= MAX_ID else None


def parse_number(value: Any) -> float | None:
    """Return a finite number that may be written as a string; None for anything else."""
    if type(value) is float:  # by far the most
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        text = value.strip()
        if len(text) > 400 or not _NUMBER.fullmatch(text):
            return None
        value = float(text)
    if type(value) not in (int, float):
        return None
    try:
        parsed = float(value)
    except OverflowError:
        return None
    return parsed if math.isfinite(parsed) else None


def parse_box_xywh(value: Any) -> tuple[float, float, float, float] | None:
    """Return four finite numbers; None for anything else."""
    if not isinstance(value, list | tuple) or len(value) != 4:
        return None
    left, top, width, height = map(parse_number, value)
    if left is None or top is None or width is None or height is None:
        return None
    return left, top, width, height


def parse_boolean(value: Any) -> bool | None:
    """Return a boolean that may be written as a number 0 or 1, a string or null (no); None for anything else."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    if isinstance(value, str):
        text = value.strip().casefold()
        return True if text in TRUE else False if text in FALSE else None
    return None
