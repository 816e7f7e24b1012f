"""Convert dataclasses of tensors to named tensors and JSON, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any, get_type_hints

import torch
from torch import Tensor

from detrscope.core.argument_check import describe_type, matches_type
from detrscope.core.errors import UserError
from detrscope.core.json_schema import short_repr
from detrscope.core.types import Level

Json = Any
TENSOR, CLASS, ITEMS = "$tensor", "$class", "$items"  # not identifiers, so no field has such a name

MAX_SIDE = 1 << 16  # tokens along a side of a feature map


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Json:
    """Return a value as JSON; its tensors go into `tensors` under names that begin with `name`.

    Args:
        value: a dataclass, tuple, list, dict with text keys, tensor, `Level`, text, number, bool or None, nested.
        name: name of the value, such as `records/decoder.5.cross`.
        tensors: filled with the tensors by name.
    """
    if isinstance(value, Tensor):
        tensors[name] = value
        return {TENSOR: name}
    if isinstance(value, Level):
        return {CLASS: "Level", "height": value.height, "width": value.width}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {
            CLASS: type(value).__name__,
            **{k: pack(v, f"{name}/{k}", tensors) for k, v in fields.items()},
        }
    if isinstance(value, Mapping):
        return {CLASS: "dict", ITEMS: {k: pack(v, f"{name}/{k}", tensors) for k, v in value.items()}}
    if isinstance(value, list | tuple):
        return [pack(v, f"{name}/{i}", tensors) for i, v in enumerate(value)]
    return value


def unpack(tree: Json, tensors: Mapping[str, Tensor], classes: Mapping[str, type]) -> Any:
    """Return the value that `pack` wrote; lists come back as tuples.

    Args:
        tree: parsed JSON.
        tensors: tensors by name.
        classes: dataclasses that may occur, by name.

    Raises:
        UserError: an unknown class, field or tensor, or a field of the wrong type.
    """
    if isinstance(tree, list):
        return tuple(unpack(item, tensors, classes) for item in tree)
    if not isinstance(tree, dict):
        return tree
    if TENSOR in tree:
        name = tree[TENSOR]
        if not isinstance(name, str) or name not in tensors:
            raise UserError(f"tensor {short_repr(name)} is missing")
        return tensors[name]
    kind = str(tree.get(CLASS))
    rest = {key: value for key, value in tree.items() if key != CLASS}
    if kind == "dict":
        items = rest.get(ITEMS)
        if not isinstance(items, dict):
            raise UserError(f"a mapping has no '{ITEMS}'")
        return {key: unpack(value, tensors, classes) for key, value in items.items()}
    if kind == "Level":
        return _level(rest)
    if kind not in classes:
        raise UserError(f"{short_repr(kind)} is not known to this version")
    values = {key: unpack(value, tensors, classes) for key, value in rest.items()}
    check_fields(classes[kind], values, kind)
    return classes[kind](**values)


def check_fields(cls: type, values: Mapping[str, Any], name: str) -> None:
    """Check values against the types that a dataclass declares for its fields.

    Raises:
        UserError: a field that it does not have, one that is missing, or one of the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if unknown := values.keys() - fields.keys():
        raise UserError(f"{name} has a field '{min(unknown)}' that is not known to this version")
    for key, f in fields.items():
        if key not in values and f.default is f.default_factory is dataclasses.MISSING:
            raise UserError(f"{name} lacks its field '{key}'")
    hints = _hints(cls)
    for key, value in values.items():
        if not matches_type(value, hints[key]):
            raise UserError(f"{name}: {key}: expected {describe_type(hints[key])}, found {_described(value)}")


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _level(values: Mapping[str, Any]) -> Level:
    sizes = [size for key in ("height", "width") if type(size := values.get(key)) is int]
    if len(sizes) != 2 or not all(1 <= size <= MAX_SIDE for size in sizes):
        raise UserError(
            f"Level: expected a height and a width of 1 to {MAX_SIDE}, found {short_repr(dict(values))}"
        )
    return Level(sizes[0], sizes[1])


def _described(value: object) -> str:
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else short_repr(value)


def pack_own_storage(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU, contiguous and without shared memory, as safetensors requires."""
    pointers: set[int] = set()
    owned = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        whole = tensor.untyped_storage().nbytes() == tensor.nbytes
        if tensor.numel() and (not whole or tensor.data_ptr() in pointers):
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        pointers.add(tensor.data_ptr())
        owned[name] = tensor
    return owned
