"""Read text, JSON and YAML from any source: UTF-8 or UTF-16, of bounded size and depth."""

from __future__ import annotations

import codecs
import json
import math
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detrscope.core.errors import UserError
from detrscope.core.json_schema import shorten_repr

MAX_TEXT_BYTES = 2**31  # bytes
MAX_CONFIG_BYTES = 2**26  # bytes of a JSON config; real ones are a thousandth of it
MAX_JSON_DEPTH = 100  # of a config or header, which is walked by recursion later
MAX_DIGITS = 300  # of an integer in a config or header
MAX_TREE_NODES = 1_000_000  # nodes of a YAML file, aliases counted wherever they are used
MAX_YAML_CHARACTERS = 2**24  # characters
MAX_YAML_DEPTH = 64
MAX_REASON_LENGTH = 120  # characters of a parser's message
_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def read_bytes(path: Path, largest: int = MAX_TEXT_BYTES) -> bytes:
    """Return the content of a regular file; a pipe or a device may never end.

    Raises:
        UserError: it cannot be read, or has more than `largest` bytes.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise UserError(f"{path}: {kind}; expected a file")
        if status.st_size > largest:
            raise UserError(f"{path}: {status.st_size >> 20} MiB; expected at most {largest >> 20} MiB")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason})") from None


def read_text(path: Path, largest: int = MAX_TEXT_BYTES) -> str:
    """Return a text in UTF-8, or in UTF-16 with a byte-order mark.

    Raises:
        UserError: see `read_bytes`, or it is in another encoding.
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
        raise UserError(f"{path}: contains NUL characters; expected a text file in UTF-8")
    return text


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text that are not empty, stripped.

    Raises:
        UserError: see `read_text`.
    """
    # Not str.splitlines, which takes characters that a name may have, such as U+0085, for ends of lines.
    lines = read_text(path).replace("\r", "\n").split("\n")
    return [line.strip() for line in lines if line.strip()]


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        UserError: it cannot be read, is not JSON, or is nested too deeply.
    """
    return _load_json(read_text(path), str(path))


def parse_json(text: str | bytes, name: str) -> Any:
    """Return the value of a JSON text that is small, such as a config or the header of a file.

    Args:
        text: the JSON.
        name: name in messages, such as that of the file.

    Raises:
        UserError: it is not JSON, or is nested deeper than `MAX_JSON_DEPTH`.
    """
    value = _load_json(text, name, _whole_number)
    if _deeper_than(value, MAX_JSON_DEPTH):
        raise UserError(f"{name}: nested more than {MAX_JSON_DEPTH} deep")
    return value


def read_json_text(path: Path) -> Any:
    """Return the value in a small JSON file, as `parse_json` reads it.

    Raises:
        UserError: it cannot be read, is larger than `MAX_CONFIG_BYTES`, is not JSON, or is nested too deeply.
    """
    return parse_json(read_text(path, MAX_CONFIG_BYTES), str(path))


def read_yaml(path: Path) -> Any:
    """Return the value in a YAML file.

    Raises:
        UserError: it cannot be read, is not YAML, is nested too deeply, or its aliases multiply beyond bounds.
    """
    import yaml

    with _yaml_errors(path):
        loader = yaml.SafeLoader(_shallow_yaml(path))
        try:
            node = loader.get_single_node()
            # Before values are made: merge keys (<<) would multiply in memory already.
            if node is not None and _expanded(node, {}) > MAX_TREE_NODES:
                raise UserError(
                    f"{path}: its aliases (*name) expand to more than {MAX_TREE_NODES:,} values; write them out"
                )
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()


def read_plain_yaml(path: Path) -> Any:
    """Return the value in a YAML file, every scalar as the text that was written.

    YAML itself reads the class names `no`, `1.10` and `2024-01-01` as False, 1.1 and a date. Aliases and tags are
    refused.

    Raises:
        UserError: it cannot be read, is not YAML, is nested too deeply, or has aliases or tags.
    """
    import yaml

    with _yaml_errors(path):
        text = _shallow_yaml(path)
        for event in yaml.parse(text, Loader=yaml.BaseLoader):
            line = _line(event)
            if isinstance(event, yaml.AliasEvent):
                raise UserError(
                    f"{path}:{line}: aliases (*{event.anchor}) are not read here; write the value out"
                )
            tag = getattr(event, "tag", None)
            if tag and tag not in _PLAIN_TAGS:
                raise UserError(
                    f"{path}:{line}: not valid YAML here (the tag {tag[:60]!r}); write the value out"
                )
        return yaml.load(text, Loader=yaml.BaseLoader)  # makes texts, lists, mappings only


def _load_json(text: str | bytes, name: str, parse_int: Callable[[str], float] | None = None) -> Any:
    try:
        return json.loads(text, parse_int=parse_int)
    except RecursionError:
        raise UserError(f"{name}: nested too deeply to be read") from None
    except UnicodeDecodeError:
        raise UserError(f"{name}: not valid JSON (not UTF-8 text)") from None
    except ValueError as error:
        raise UserError(f"{name}: not valid JSON ({shorten_repr(str(error), MAX_REASON_LENGTH)})") from None


def _whole_number(digits: str) -> float:
    """Return an integer, or infinity for one of too many digits, which the check of its key then refuses."""
    return int(digits) if len(digits) <= MAX_DIGITS else math.inf


def _deeper_than(value: object, limit: int) -> bool:
    """Return whether lists and objects are nested deeper than `limit`."""
    layer, depth = [value], 0
    while layer and depth <= limit:
        containers = [item for item in layer if isinstance(item, dict | list)]
        layer = [
            inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)
        ]
        depth += 1
    return bool(layer)


def _shallow_yaml(path: Path) -> str:
    """Return the text of a YAML file whose nesting is bounded: the parser takes minutes for 100,000 brackets."""
    import yaml

    text = read_text(path)
    if len(text) > MAX_YAML_CHARACTERS:
        raise UserError(f"{path}: {len(text):,} characters; expected at most {MAX_YAML_CHARACTERS:,} of YAML")
    depth = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_YAML_DEPTH:
            raise UserError(f"{path}:{_line(event)}: nested too deeply to be read")
    return text


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


@contextmanager
def _yaml_errors(path: Path) -> Iterator[None]:
    """Turn the errors of the YAML library into a UserError."""
    import yaml

    try:
        yield
    except RecursionError:
        raise UserError(f"{path}: nested too deeply to be read") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        reason = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise UserError(f"{where}: not valid YAML ({reason})") from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # the date 2020-13-45, or !!int x
        raise UserError(f"{path}: not valid YAML ({error})") from None


def _expanded(node: Any, sizes: dict[int, int]) -> int:
    """Return the number of values below a node of YAML if every alias was written out."""
    if isinstance(node.value, str):
        return 1
    if id(node) not in sizes:
        sizes[id(node)] = MAX_TREE_NODES + 1  # size of a recursive alias
        pairs = [pair if isinstance(pair, tuple) else (pair,) for pair in node.value]
        sizes[id(node)] = 1 + sum(_expanded(inner, sizes) for pair in pairs for inner in pair)
    return sizes[id(node)]
