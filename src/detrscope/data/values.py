"""Values and texts of foreign files: one meaning each, whatever type a tool has written them in."""

from __future__ import annotations

import codecs
import json
import math
from pathlib import Path
from typing import Any

from detrscope.core.errors import UserError

LARGEST_ID = 2**63 - 1  # ids travel through int64 tensors
TRUE, FALSE = frozenset({"1", "true", "yes"}), frozenset({"0", "false", "no", ""})
LARGEST_TEXT = 2**31  # bytes
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


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


def read_text(path: Path) -> str:
    """A text in UTF-8, or in UTF-16 with its mark.

    Raises:
        UserError: it cannot be read, is too large, or is in another encoding.
    """
    try:
        if not path.is_file():
            raise UserError(f"{path}: no such file" if not path.exists() else f"{path}: not a regular file")
        if path.stat().st_size > LARGEST_TEXT:
            raise UserError(
                f"{path}: {path.stat().st_size >> 20} MiB; expected at most {LARGEST_TEXT >> 20} MiB"
            )
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 (byte {error.start} is 0x{data[error.start]:02x}); save it as UTF-8"
        ) from None
    if "\0" in text:
        raise UserError(f"{path}: has NUL characters, so it is no text; save it as UTF-8")
    return text


def read_lines(path: Path) -> list[str]:
    """The lines of a text that are not empty, without the space around them.

    Raises:
        UserError: see `read_text`.
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: it cannot be read, is not JSON, or is nested too deeply.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise UserError(f"{path}: nested too deeply to be read") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
