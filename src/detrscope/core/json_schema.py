"""Read JSON and check its fields: whatever is wrong is one line that names the file and the key."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pydantic

from detrscope.core.errors import UserError, nearest

Schema = TypeVar("Schema", bound=pydantic.BaseModel)

LARGEST_JSON = 64 << 20  # bytes; configs and cards are a thousandth of it
LONGEST_SHOWN = 60  # characters of a value in a message
MOST_DIGITS = 300
DEEPEST = 100  # objects and lists inside each other


class StrictModel(pydantic.BaseModel):
    """Base of a format's fields: no conversions, no unknown keys, no NaN or infinity."""

    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def parse_json(text: str | bytes, name: str) -> Any:
    """The value of a JSON text.

    Args:
        text: the JSON.
        name: what to call it in errors, such as a file name.

    Raises:
        UserError: it is not JSON, or nested or with numbers beyond what can be read.
    """
    try:
        value = json.loads(text, parse_int=_whole_number)
    except RecursionError:
        raise UserError(f"{name}: nested too deep to be read as JSON") from None
    except UnicodeDecodeError:
        raise UserError(f"{name}: cannot be read as JSON (not UTF-8 text)") from None
    except ValueError as error:
        raise UserError(f"{name}: cannot be read as JSON ({_short(str(error), 120)})") from None
    if _deeper_than(value, DEEPEST):
        raise UserError(f"{name}: nested more than {DEEPEST} deep")
    return value


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        UserError: missing, too large, or not JSON.
    """
    try:
        if (size := path.stat().st_size) > LARGEST_JSON:
            raise UserError(f"{path}: {size:,} bytes, expected at most {LARGEST_JSON:,}")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    return parse_json(data.removeprefix(b"\xef\xbb\xbf"), str(path))


def validate(schema: type[Schema], tree: object, name: str) -> Schema:
    """The fields of a format out of parsed JSON.

    Args:
        schema: the fields with their types and ranges.
        tree: parsed JSON.
        name: of the file, for errors.

    Raises:
        UserError: not an object, an unknown key, a missing key or a value of the wrong type; the key is named.
    """
    if not isinstance(tree, Mapping):
        raise UserError(f"{name}: expected a JSON object, found {type_name(tree)}")
    try:
        return schema.model_validate(tree)
    except pydantic.ValidationError as error:
        raise_first_error(error, name, schema.model_fields)


def raise_first_error(
    error: pydantic.ValidationError, name: str, known: Mapping[str, Any] | None = None
) -> NoReturn:
    """Raise the first problem that pydantic found as one line.

    Raises:
        UserError: always.
    """
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"] if not _is_branch(str(part)))
    if first["type"] == "extra_forbidden":
        hint = nearest(key, known) if known and "." not in key else "not known to this version"
        raise UserError(f"{name}: unknown key '{_short(key)}'; {hint}")
    if first["type"] == "missing":
        raise UserError(f"{name}: key '{key}' is missing")
    says = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    plain = "expected " + says if first["msg"].startswith("Input should be ") else says
    raise UserError(f"{name}: {_short(key)}: {plain}, found {short_repr(first.get('input'))}")


def short_repr(value: object, limit: int = LONGEST_SHOWN) -> str:
    """Return a value as messages show it: one line of at most `limit` characters, whatever it is."""
    try:
        return _short(repr(_beginning(value)), limit)
    except Exception:  # repr runs foreign code, and refuses integers of thousands of digits
        return f"a {type_name(value)}"


def _beginning(value: object, depth: int = 3) -> object:
    """Return the first items of nested lists and objects: with YAML's aliases their whole text may be endless."""
    if type(value) is dict:
        return {k: _beginning(v, depth - 1) for k, v in [*value.items()][:8]} if depth else {}
    if type(value) in (list, tuple):
        items: Any = value
        return type(items)(_beginning(v, depth - 1) for v in items[:8] if depth)
    return value


def type_name(value: object) -> str:
    """What JSON calls a value's type, or Python for anything else."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


@cache
def _is_branch(part: str) -> bool:
    """Whether pydantic made this part of a location for a branch of a union, such as `function-after[...]`."""
    return "[" in part or part in ("int", "float", "str", "bool", "none") or part.startswith("constrained-")


def _short(text: str, limit: int = LONGEST_SHOWN) -> str:
    line = "".join(letter if letter.isprintable() else "?" for letter in text)
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def _whole_number(digits: str) -> float:
    """An integer, or infinity where Python refuses to read so many digits: the check of the key then refuses it."""
    return int(digits) if len(digits) <= MOST_DIGITS else math.inf


def _deeper_than(value: object, limit: int) -> bool:
    """Whether lists and objects are nested deeper; what walks them later does so by recursion."""
    layer, depth = [value], 0
    while layer:
        layer = [
            inner
            for one in layer
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        depth += 1
        if depth > limit and layer:
            return True
    return False
