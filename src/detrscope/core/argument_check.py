"""Check the types of arguments at the public functions: one error that names the argument, before any work."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import numpy as np
import pydantic
import torch
from torch import Tensor

from detrscope.core.errors import UserError, suggest_nearest
from detrscope.core.json_schema import short_repr

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)
Hints = dict[str, Any]

_PLAIN = (int, float, str, bool, bytes, type(None))
_GENERIC = (
    *(tuple, list, dict, set, frozenset),
    *(collections.abc.Sequence, collections.abc.Mapping, collections.abc.Iterable),
)
_STRICT = pydantic.ConfigDict(strict=True, allow_inf_nan=False)


class WrongArgument(UserError, TypeError):
    """An argument of the wrong type; a `TypeError` too, as Python callers expect."""


def check_arguments_of(
    function: Callable[P, R],
    *,
    name: str = "",
    names: Callable[[], Mapping[str, Any]] = dict,
) -> Callable[P, R]:
    """Return the function with its arguments checked against their annotations.

    Scalars of numpy and torch are taken as numbers, their 1-d arrays as lists, and lists as tuples.

    Args:
        function: function with annotations; those that cannot be resolved are not checked.
        name: name of the function in messages; its own by default.
        names: returns the types that its module imports for type checkers only, by name.
    """
    return _checked(function, name or function.__qualname__, lambda: _hints(function, names()))


def check_method_arguments(cls: C) -> C:
    """Decorate a class: the arguments of its public methods are checked against their annotations."""
    for name, member in list(vars(cls).items()):
        qualified = f"{cls.__name__}.{name}"
        if name.startswith("_"):
            continue
        if isinstance(member, classmethod):
            setattr(cls, name, classmethod(check_arguments_of(member.__func__, name=qualified)))
        elif inspect.isfunction(member):
            setattr(cls, name, check_arguments_of(member, name=qualified))
    return cls


def check_field_arguments(cls: C) -> C:
    """Decorate a dataclass: the values of its fields are checked against their annotations."""
    init = cls.__init__  # type: ignore[misc]
    cls.__init__ = _checked(init, cls.__name__, lambda: typing.get_type_hints(cls))  # type: ignore[misc]
    return cls


def matches_type(value: object, hint: Any) -> bool:
    """Return whether a value has a type, everything nested in it included.

    NaN and infinity are not numbers here, nor is a bool.
    """
    if _is_class(hint):
        return isinstance(value, hint)
    try:
        _adapter(hint).validate_python(value)
    except pydantic.ValidationError:
        return False
    return True


def describe_type(hint: Any) -> str:
    """Return a type in words, such as `int, list of int or None`."""
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
    plain = {type(None): "None", str: "text", float: "a finite number"}
    if isinstance(hint, type) and hint in plain:
        return plain[hint]
    return str(getattr(hint, "__name__", hint)).replace("typing.", "")


def _checked(function: Callable[P, R], name: str, find_hints: Callable[[], Hints]) -> Callable[P, R]:
    @functools.cache
    def declared() -> tuple[inspect.Signature, Hints]:
        return inspect.signature(function), find_hints()

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        signature, hints = declared()
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            known = ", ".join(key for key in signature.parameters if key not in ("self", "cls"))
            raise WrongArgument(f"{name}: {error}; it takes {known or 'none'}") from None
        for key in bound.arguments.keys() & hints.keys():
            bound.arguments[key] = _converted(bound.arguments[key], hints[key], f"{name}: {key}")
        return function(*bound.args, **bound.kwargs)

    return checked


def _converted(value: object, hint: Any, name: str) -> Any:
    """Return the value in the declared type.

    Raises:
        WrongArgument: it has another type.
    """
    if isinstance(value, Tensor) and (value.is_meta or value.layout != torch.strided):
        kind = "the device 'meta'" if value.is_meta else f"the layout {value.layout}"
        raise WrongArgument(f"{name}: expected a dense tensor with numbers in it, found one of {kind}")
    if matches_type(value, hint):
        return value
    plain = _plain(value)
    if matches_type(plain, hint):
        return plain
    if isinstance(plain, str) and (choices := _choices(hint)):
        raise WrongArgument(f"{name} {short_repr(plain)} is not known; {suggest_nearest(plain, choices)}")
    in_list = matches_type([plain], hint) or matches_type((plain,), hint)
    remedy = f"; pass a list: [{short_repr(value)}]" if in_list else ""
    raise WrongArgument(f"{name}: expected {describe_type(hint)}, found {_described(value)}{remedy}")


def _plain(value: object) -> object:
    """Return numbers of numpy and torch as Python's, 1-d arrays and lists as tuples."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor | np.ndarray):
        if value.ndim == 0:
            return value.item()
        return tuple(value.tolist()) if value.ndim == 1 else value
    if isinstance(value, list | tuple | range):
        return tuple(_plain(item) for item in value)
    return bytes(value) if isinstance(value, bytearray) else value


def _choices(hint: Any) -> list[str]:
    """Return the texts that a Literal, alone or in a union, allows; empty where the hint has none."""
    if get_origin(hint) is Literal:
        return [choice for choice in get_args(hint) if isinstance(choice, str)]
    return [choice for part in get_args(hint) if get_origin(part) is Literal for choice in _choices(part)]


def _described(value: object) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} {list(value.shape)} of {value.dtype}"
    named = isinstance(value, str | bytes | int | float | None)
    return short_repr(value) if named else f"{type(value).__name__} {short_repr(value)}"


def _hints(function: Callable[..., Any], names: Mapping[str, Any]) -> Hints:
    """Return the types of a function's arguments, as far as they can be resolved at run time."""
    inner = inspect.unwrap(function)
    scope = {**names, **inner.__globals__}
    hints: Hints = {}
    for name, annotation in inner.__annotations__.items():
        if name == "return":
            continue
        try:
            hints[name] = eval(annotation, scope) if isinstance(annotation, str) else annotation
        except NameError:  # imported for type checkers only
            continue
    return {name: hint for name, hint in hints.items() if hint is not Any}


@functools.cache
def _adapter(hint: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(_by_instance(hint), config=_STRICT)


def _by_instance(hint: Any) -> Any:
    """Return the hint with isinstance checks for classes: pydantic would open dataclasses and reject tensors."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return Union[tuple(_by_instance(part) for part in parts)]  # noqa: UP007, made at run time
    if origin in _GENERIC:
        inner = tuple(part if part is Ellipsis else _by_instance(part) for part in parts)
        return typing.cast(Any, origin)[inner]
    return typing.cast(Any, pydantic.InstanceOf)[hint] if _is_class(hint) else hint


def _is_class(hint: Any) -> bool:
    plain = hint in (*_PLAIN, *_GENERIC, Any, object)
    return isinstance(hint, type) and get_origin(hint) is None and not plain
