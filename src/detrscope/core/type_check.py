"""Whether a value has the type that a hint says: pydantic, strict, with classes of ours by isinstance."""

from __future__ import annotations

import collections.abc
import types
import typing
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

import pydantic

_PLAIN = (int, float, str, bool, bytes, type(None))
_STRICT = pydantic.ConfigDict(strict=True, allow_inf_nan=False)
_GENERIC = (
    *(tuple, list, dict, set, frozenset),
    *(collections.abc.Sequence, collections.abc.Mapping, collections.abc.Iterable),
)


def matches_type(value: object, hint: Any) -> bool:
    """Whether a value has a type, all that is nested in it included; NaN and infinity are no numbers, nor is a bool."""
    if _is_class(hint):
        return isinstance(value, hint)
    try:
        _adapter(hint).validate_python(value)
    except pydantic.ValidationError:
        return False
    return True


def describe_type(hint: Any) -> str:
    """A type for messages, such as `int, list of int or None`."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        words = list(dict.fromkeys(describe_type(part) for part in parts))
        return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is tuple and Ellipsis not in parts:
        return f"({', '.join(describe_type(part) for part in parts)})"
    if origin in (tuple, list, collections.abc.Sequence, collections.abc.Iterable):
        return f"list of {describe_type(parts[0])}"
    if origin in (dict, collections.abc.Mapping):
        return f"mapping of {describe_type(parts[0])} to {describe_type(parts[1])}"
    if hint is type(None):
        return "None"
    if hint is str:
        return "text"
    if hint is float:
        return "a finite number"
    return str(getattr(hint, "__name__", hint)).replace("typing.", "")


@cache
def _adapter(hint: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(_by_instance(hint), config=_STRICT)


def _by_instance(hint: Any) -> Any:
    """The hint with every class by isinstance: pydantic would look into dataclasses, and knows no tensors."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return Union[tuple(_by_instance(part) for part in parts)]  # noqa: UP007, made at run time
    if origin in _GENERIC:
        inner = tuple(part if part is Ellipsis else _by_instance(part) for part in parts)
        return typing.cast(Any, origin)[inner]
    return typing.cast(Any, pydantic.InstanceOf)[hint] if _is_class(hint) else hint


def _is_class(hint: Any) -> bool:
    return (
        isinstance(hint, type) and get_origin(hint) is None and hint not in (*_PLAIN, *_GENERIC, Any, object)
    )
