"""Values and texts of foreign files: one meaning each, whatever type a tool has written them in."""

from __future__ import annotations

import codecs
import json
import math
import re
import stat
from pathlib import Path
from typing import Any

from detrscope.core.errors import UserError

LARGEST_ID = 2**63 - 1  # ids travel through int64 tensors
TRUE, FALSE = frozenset({"1", "true", "yes"}), frozenset({"0", "false", "no", ""})
LARGEST_TEXT = 2**31  # bytes
LARGEST_YAML = 2**24  # bytes; the YAML of a dataset lists names and folders
DEEPEST_YAML = 32
_YAML_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}
# Python's float() and int() also take 1_000, the digits of every script, "nan" and "inf".
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}(\.0{1,20})?", re.ASCII)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", re.ASCII)
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


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


def read_bytes(path: Path, largest: int = LARGEST_TEXT) -> bytes:
    """The bytes of a regular file, not of a pipe or a device, which may never end.

    Raises:
        UserError: it cannot be read, or is too large.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: {'a folder' if path.is_dir() else 'not a regular file'}, expected a file")
        if status.st_size > largest:
            raise UserError(f"{path}: {status.st_size >> 20} MiB, expected at most {largest >> 20} MiB")
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: cannot be read (no such file)") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def read_text(path: Path, largest: int = LARGEST_TEXT) -> str:
    """A text in UTF-8, or in UTF-16 with its mark.

    Raises:
        UserError: it cannot be read, is too large, or is in another encoding.
    """
    data = read_bytes(path, largest)
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


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping whose plain values are all text, as they were written.

    YAML itself would read the class names `no`, `1.10` and `2024-01-01` as False, 1.1 and a date. Aliases, which
    can repeat a line billions of times, and tags are refused: the YAML of a dataset needs neither.

    Raises:
        UserError: it cannot be read, is not YAML, or is not a mapping.
    """
    import yaml

    text = read_text(path, LARGEST_YAML)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.BaseLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST_YAML:
                raise UserError(f"{path}:{event.start_mark.line + 1}: nested too deeply to be read")
            tag = getattr(event, "tag", None) or ""
            if isinstance(event, yaml.AliasEvent) or (tag and tag not in _YAML_TAGS):
                what = "an alias (*)" if isinstance(event, yaml.AliasEvent) else f"the tag {shown(tag, 60)}"
                line = event.start_mark.line + 1
                raise UserError(f"{path}:{line}: {what} is not read here; write the value out")
        tree = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506: it makes texts, lists and mappings only
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"{where}: not valid YAML ({getattr(error, 'problem', None) or error})") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply to be read") from None
    except (ValueError, TypeError) as error:  # a list or mapping as a key
        raise UserError(f"{path}: not valid YAML ({error})") from None
    if not tree:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a mapping of settings, found a {type(tree).__name__}")
    return tree
