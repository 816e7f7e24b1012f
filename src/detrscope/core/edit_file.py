"""Edits as JSON: what `see` saves beside a trace, and `--edits` reads.

    {"format": 1, "edits": ["decoder.*.cross: heads 2,3 x0", {"site": "encoder.0.self", "scores": [[0, "-inf"]]}]}

Edits of the grammar are texts (see `core.edit_text`); a bias or swap of a whole tensor is an object with its numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detrscope.core.edit_text import parse_edit
from detrscope.core.edits import Bias, Edit, Swap
from detrscope.core.errors import UserError
from detrscope.core.files import atomic_write
from detrscope.core.json_schema import short_repr, type_name
from detrscope.core.text_files import read_json

FORMAT = 1


def edits_to_json(edits: Sequence[Edit]) -> dict[str, Any]:
    """Return edits as a tree for JSON; tensors as nested lists, with infinities as text."""
    return {"format": FORMAT, "edits": [_to_json(edit) for edit in edits]}


def save_edits(edits: Sequence[Edit], path: str | Path) -> Path:
    """Write edits to a JSON file, atomically."""
    path = Path(path)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(edits_to_json(edits), indent=1) + "\n", encoding="utf-8")
    return path


def load_edits(path: str | Path) -> tuple[Edit, ...]:
    """Read a file that `save_edits` wrote.

    Raises:
        UserError: it cannot be read, is of another format, or has something that is not an edit; its number is named.
    """
    return edits_from_json(read_json(Path(path)), str(path))


def edits_from_json(tree: object, name: str) -> tuple[Edit, ...]:
    """Return the edits in parsed JSON.

    Args:
        tree: what `edits_to_json` returned, or its list alone.
        name: name of the file, for messages.

    Raises:
        UserError: another format, or something that is not an edit; its number is named.
    """
    if isinstance(tree, Mapping):
        if unknown := tree.keys() - {"format", "edits"}:
            raise UserError(
                f"{name}: unknown key {short_repr(min(map(str, unknown)))}; expected format and edits"
            )
        if tree.get("format") != FORMAT:
            raise UserError(
                f"{name}: edits of format {short_repr(tree.get('format'))}; expected format {FORMAT}"
            )
        tree = tree.get("edits")
    if not isinstance(tree, list):
        raise UserError(f"{name}: expected a list of edits, found {type_name(tree)}")
    return tuple(_from_json(edit, f"{name}: edit {number}") for number, edit in enumerate(tree))


def _to_json(edit: Edit) -> Any:
    match edit:
        case Bias():
            return {"site": edit.site, "scores": _lists(edit.scores)}
        case Swap():
            return {"site": edit.site, "part": edit.part, "tensor": _lists(edit.tensor)}
    return edit.describe()


def _from_json(tree: object, name: str) -> Edit:
    try:
        if isinstance(tree, str):
            return parse_edit(tree)
        if isinstance(tree, Mapping) and isinstance(tree.get("site"), str):
            if tree.keys() == {"site", "scores"}:
                return Bias(tree["site"], _tensor(tree["scores"]))
            if tree.keys() == {"site", "part", "tensor"}:
                return Swap(tree["site"], tree["part"], _tensor(tree["tensor"]))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    raise UserError(
        f"{name}: expected a text such as 'decoder.*.cross: heads 2,3 x0', found {short_repr(tree)}"
    )


def _lists(tensor: Tensor) -> Any:
    """Return a tensor as nested lists in which JSON can write every number."""
    return _each(tensor.float().tolist(), lambda x: x if math.isfinite(x) else str(x))


def _tensor(lists: object) -> Tensor:
    try:
        return torch.tensor(_each(lists, float), dtype=torch.float32)
    except (TypeError, ValueError):
        raise UserError("expected numbers in nested lists of equal lengths") from None


def _each(lists: Any, convert: Any) -> Any:
    return [_each(part, convert) for part in lists] if isinstance(lists, list) else convert(lists)
