"""Schemas of JSON formats: pydantic checks the fields, errors are one line that names the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

import pydantic

from detrscope.core.errors import UserError, suggest_nearest

Schema = TypeVar("Schema", bound=pydantic.BaseModel)

MAX_SHOWN_LENGTH = 60  # characters of a value in a message


class StrictModel(pydantic.BaseModel):
    """Base class of a format's fields: no conversions, no unknown keys, no NaN or infinity."""

    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def validate(schema: type[Schema], tree: object, name: str) -> Schema:
    """Return the fields of a format, checked.

    Args:
        schema: fields with their types and ranges.
        tree: parsed JSON.
        name: name of the file, for messages.

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

    Args:
        error: error of pydantic.
        name: name of the file, for messages.
        known: keys that are valid at the top level.

    Raises:
        UserError: always.
    """
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"] if not _is_branch(str(part)))
    if first["type"] == "extra_forbidden":
        hint = suggest_nearest(key, known) if known and "." not in key else "not known to this version"
        raise UserError(f"{name}: unknown key '{shorten_repr(key)}'; {hint}")
    if first["type"] == "missing":
        raise UserError(f"{name}: key '{key}' is missing")
    message = first["msg"].removeprefix("Value error, ")
    if message.startswith("Input should be "):
        message = "expected " + message.removeprefix("Input should be ")
    raise UserError(f"{name}: {shorten_repr(key)}: {message}, found {short_repr(first.get('input'))}")


def short_repr(value: object, limit: int = MAX_SHOWN_LENGTH) -> str:
    """Return a value as messages show it: one line of at most `limit` characters, whatever it is."""
    try:
        return shorten_repr(repr(_beginning(value)), limit)
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
    """Return the JSON name of a value's type; the Python name for other types."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def shorten_repr(text: str, limit: int = MAX_SHOWN_LENGTH) -> str:
    """Return a text on one line of at most `limit` printable characters."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text)
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def _is_branch(part: str) -> bool:
    """Return whether pydantic named a branch of a union with this part of a location: `function-after[...]`."""
    return "[" in part or part in ("int", "float", "str", "bool", "none") or part.startswith("constrained-")
