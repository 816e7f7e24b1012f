"""Text files from anywhere: UTF-8 or UTF-16, JSON or YAML, of a size and depth that can be worked with."""

from __future__ import annotations

import codecs
import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detrscope.core.errors import UserError

LARGEST_TEXT = 2**31  # bytes
LARGEST_TREE = 1_000_000  # nodes of a YAML file, aliases counted wherever they are used
LARGEST_YAML = 2**24  # characters
DEEPEST_YAML = 64
_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file, not of a pipe or a device, which may never end.

    Raises:
        UserError: it cannot be read, or is too large.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise UserError(f"{path}: {kind}; expected a file")
        if status.st_size > LARGEST_TEXT:
            raise UserError(f"{path}: {status.st_size >> 20} MiB; expected at most {LARGEST_TEXT >> 20} MiB")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason})") from None


def read_text(path: Path) -> str:
    """A text in UTF-8, or in UTF-16 with its mark.

    Raises:
        UserError: it cannot be read, is too large, or is in another encoding.
    """
    data = read_bytes(path)
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
    # Not str.splitlines, which takes characters that a name may have, such as U+0085, for ends of lines.
    lines = read_text(path).replace("\r", "\n").split("\n")
    return [line.strip() for line in lines if line.strip()]


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

    with _one_line(path):
        loader = yaml.SafeLoader(_shallow_yaml(path))
        try:
            node = loader.get_single_node()
            # Before values are made: merge keys (<<) would multiply in memory already.
            if node is not None and _expanded(node, {}) > LARGEST_TREE:
                raise UserError(
                    f"{path}: its aliases (*name) stand for more than {LARGEST_TREE:,} values; write them out"
                )
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()


def read_plain_yaml(path: Path) -> Any:
    """What a YAML file holds, every value as the text that was written.

    YAML itself reads the class names `no`, `1.10` and `2024-01-01` as False, 1.1 and a date. Aliases and tags are
    refused.

    Raises:
        UserError: it cannot be read, is not YAML, is nested too deeply, or has aliases or tags.
    """
    import yaml

    with _one_line(path):
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


def _shallow_yaml(path: Path) -> str:
    """The text of a YAML file whose nesting is bounded: the parser takes minutes for 100,000 brackets."""
    import yaml

    text = read_text(path)
    if len(text) > LARGEST_YAML:
        raise UserError(f"{path}: {len(text):,} characters; expected at most {LARGEST_YAML:,} of YAML")
    depth = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST_YAML:
            raise UserError(f"{path}:{_line(event)}: nested too deeply to be read")
    return text


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """What the YAML library raises, as a UserError."""
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
    except (
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
    ) as error:  # such as the date 2020-13-45, or !!int x
        raise UserError(f"{path}: not valid YAML ({error})") from None


def _expanded(node: Any, known: dict[int, int]) -> int:
    """The number of values below a node of YAML if every alias was written out."""
    if isinstance(node.value, str):
        return 1
    if id(node) not in known:
        known[id(node)] = LARGEST_TREE + 1  # of an alias inside of what it stands for
        pairs = [pair if isinstance(pair, tuple) else (pair,) for pair in node.value]
        known[id(node)] = 1 + sum(_expanded(one, known) for pair in pairs for one in pair)
    return known[id(node)]
