"""Plain dataclasses of tensors as named tensors and JSON, and back; whatever fields they have."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detrscope.core.errors import UserError
from detrscope.core.types import Level

Json = Any
TENSOR, CLASS, ITEMS = "$tensor", "$class", "$items"  # no field of a dataclass can be called so


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Json:
    """JSON of a value; its tensors go into `tensors` under names that begin with `name`.

    Args:
        value: a dataclass, tuple, list, dict with text keys, tensor, `Level`, text, number, bool or None, nested.
        name: such as `records/decoder.5.cross`.
        tensors: filled.
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
    """The inverse of `pack`; lists come back as tuples.

    Args:
        tree: the JSON.
        tensors: by name.
        classes: the dataclasses that may occur, by name.

    Raises:
        UserError: a class, a field or a tensor that is not known here. The message begins with what is wrong.
    """
    if isinstance(tree, list):
        return tuple(unpack(item, tensors, classes) for item in tree)
    if not isinstance(tree, dict):
        return tree
    if TENSOR in tree:
        if tree[TENSOR] not in tensors:
            raise UserError(f"tensor '{tree[TENSOR]}' is missing")
        return tensors[tree[TENSOR]]
    kind = str(tree.get(CLASS))
    rest = {key: value for key, value in tree.items() if key != CLASS}
    if kind == "dict":
        return {key: unpack(value, tensors, classes) for key, value in rest[ITEMS].items()}
    if kind == "Level":
        return Level(int(rest["height"]), int(rest["width"]))
    if kind not in classes:
        raise UserError(f"'{kind}' is not known to this version")
    cls = classes[kind]
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if unknown := rest.keys() - fields.keys():
        raise UserError(f"{kind} has a field '{min(unknown)}' that is not known to this version")
    needed = {
        n
        for n, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if absent := needed - rest.keys():
        raise UserError(f"{kind} lacks its field '{min(absent)}'")
    return cls(**{key: unpack(value, tensors, classes) for key, value in rest.items()})


def own_storage(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors on the CPU, contiguous, no two of them sharing memory, as safetensors wants them."""
    seen: set[int] = set()
    owned = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        whole = tensor.untyped_storage().nbytes() == tensor.nbytes
        if tensor.numel() and (not whole or tensor.data_ptr() in seen):
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        seen.add(tensor.data_ptr())
        owned[name] = tensor
    return owned
