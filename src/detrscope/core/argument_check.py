"""Check what Python callers pass at the public doors: one error that names the argument, before any work."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, ParamSpec, TypeVar, get_args, get_origin

import numpy as np
from torch import Tensor

from detrscope.core.errors import UserError, nearest
from detrscope.core.json_schema import short_repr
from detrscope.core.type_check import describe_type, matches_type

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)


class WrongArgument(UserError, TypeError):
    """An argument of the wrong type; a `TypeError` too, as Python callers expect."""


def checked_arguments(
    function: Callable[P, R],
    *,
    name: str = "",
    names: Callable[[], Mapping[str, Any]] = dict,
) -> Callable[P, R]:
    """The same function, refusing arguments that are not of the types it declares.

    Scalars of numpy and torch count as numbers, arrays and tensors of them as lists, and lists as tuples.

    Args:
        function: with annotations; those that cannot be resolved are not checked.
        name: for messages; else its own.
        names: what annotations mean that its module imports for type checkers only.
    """
    called = name or function.__qualname__

    @functools.cache
    def declared() -> tuple[inspect.Signature, dict[str, Any]]:
        return inspect.signature(function), _hints(function, names())

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        signature, hints = declared()
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise WrongArgument(f"{called}: {error}; it takes {_listed(signature)}") from None
        for key, value in bound.arguments.items():
            if key in hints:
                bound.arguments[key] = _as_declared(value, hints[key], f"{called}: {key}")
        return function(*bound.args, **bound.kwargs)

    return checked


def checked_methods(cls: C) -> C:
    """A class whose public methods refuse arguments that are not of the types they declare."""
    for name, member in list(vars(cls).items()):
        if name.startswith("_"):
            continue
        called = f"{cls.__name__}.{name}"
        if isinstance(member, classmethod):
            setattr(cls, name, classmethod(checked_arguments(member.__func__, name=called)))
        elif inspect.isfunction(member):
            setattr(cls, name, checked_arguments(member, name=called))
    return cls


def checked_fields(cls: C) -> C:
    """A dataclass that refuses values that are not of the types of its fields."""
    made = cls.__init__  # type: ignore[misc]

    @functools.cache
    def declared() -> tuple[inspect.Signature, dict[str, Any]]:
        return inspect.signature(made), typing.get_type_hints(cls)

    @functools.wraps(made)
    def checked(self: object, *args: Any, **kwargs: Any) -> None:
        signature, hints = declared()
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError as error:
            raise WrongArgument(f"{cls.__name__}: {error}; it takes {_listed(signature)}") from None
        for key, value in bound.arguments.items():
            if key in hints:
                bound.arguments[key] = _as_declared(value, hints[key], f"{cls.__name__}: {key}")
        made(*bound.args, **bound.kwargs)

    cls.__init__ = checked  # type: ignore[misc]
    return cls


def _as_declared(value: object, hint: Any, name: str) -> Any:
    """The value, or what it stands for in plain Python, in the declared type.

    Raises:
        WrongArgument: it has another type.
    """
    if matches_type(value, hint):
        return value
    plain = _plain(value)
    if matches_type(plain, hint):
        return plain
    if isinstance(plain, str) and (choices := _choices(hint)):
        raise WrongArgument(f"{name} {short_repr(plain)} is not known; {nearest(plain, choices)}")
    one = (
        f"; for one, write [{short_repr(value)}]"
        if matches_type([plain], hint) or matches_type((plain,), hint)
        else ""
    )
    raise WrongArgument(f"{name}: expected {describe_type(hint)}, found {_described(value)}{one}")


def _plain(value: object) -> object:
    """Numbers out of numpy and torch, lists of them, and tuples in place of lists."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor | np.ndarray):
        if value.ndim == 0:
            return value.item()
        return tuple(value.tolist()) if value.ndim == 1 else value
    if isinstance(value, list | tuple | range):
        return tuple(_plain(one) for one in value)
    return bytes(value) if isinstance(value, bytearray) else value


def _choices(hint: Any) -> list[str]:
    """The texts that a hint of choices allows, empty where it allows any."""
    if get_origin(hint) is Literal:
        return [choice for choice in get_args(hint) if isinstance(choice, str)]
    return [choice for part in get_args(hint) if get_origin(part) is Literal for choice in _choices(part)]


def _described(value: object) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} {list(value.shape)} of {value.dtype}"
    return (
        short_repr(value)
        if isinstance(value, str | bytes | int | float | None)
        else f"{type(value).__name__} {short_repr(value)}"
    )


def _listed(signature: inspect.Signature) -> str:
    return ", ".join(name for name in signature.parameters if name not in ("self", "cls")) or "none"


def _hints(function: Callable[..., Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """The types of a function's arguments, as far as they can be resolved at run time."""
    plain = inspect.unwrap(function)
    scope = {**names, **plain.__globals__}
    found: dict[str, Any] = {}
    for name, annotation in plain.__annotations__.items():
        if name == "return":
            continue
        try:
            found[name] = eval(annotation, scope) if isinstance(annotation, str) else annotation
        except NameError:  # imported for type checkers only
            continue
    return {name: hint for name, hint in found.items() if hint is not Any}
