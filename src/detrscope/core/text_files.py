"""Text files from anywhere: UTF-8 or UTF-16, JSON or YAML, of a size and depth that can be worked with."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detrscope.core.errors import UserError

LARGEST_TEXT = 2**31  # bytes
LARGEST_TREE = 1_000_000  # nodes of a YAML file, aliases counted wherever they are used
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


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


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        UserError: it cannot be read, is not YAML, is nested too deeply, or its aliases multiply beyond bounds.
    """
    import yaml

    text = read_text(path)
    try:
        tree = yaml.safe_load(text)
        size = _expanded(tree, {})
    except RecursionError:
        raise UserError(f"{path}: nested too deeply to be read") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"{where}: not valid YAML ({getattr(error, 'problem', None) or error})") from None
    except ValueError as error:  # such as the date 2020-13-45
        raise UserError(f"{path}: not valid YAML ({error})") from None
    if size > LARGEST_TREE:
        raise UserError(
            f"{path}: its aliases (*name) stand for more than {LARGEST_TREE:,} values; write them out"
        )
    return tree


def _expanded(node: Any, known: dict[int, int]) -> int:
    """The number of values in a tree if every alias was written out."""
    if not isinstance(node, Mapping | list):
        return 1
    if id(node) not in known:
        known[id(node)] = LARGEST_TREE + 1  # of an alias inside of what it stands for
        inner = node.values() if isinstance(node, Mapping) else node
        known[id(node)] = 1 + sum(_expanded(one, known) for one in inner)
    return known[id(node)]
