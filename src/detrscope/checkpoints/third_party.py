"""Other people's files: read safely, recognised by their keys, turned into our names and settings."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os.path import exists, isfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from detrscope.checkpoints.coco_classes import coco_classes
from detrscope.checkpoints.hugging_face_config import (
    Heads,
    Partial,
    class_table,
    labels_of,
    read_config,
    references,
    settings_of,
)
from detrscope.checkpoints.hugging_face_processor import read_processor
from detrscope.checkpoints.safe_pickle import read_pickle
from detrscope.checkpoints.unwrap import Found, find_state, unwrap
from detrscope.config import merge
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.json_schema import validate
from detrscope.core.preprocessing import Preprocessing
from detrscope.families import FAMILIES
from detrscope.families.family import Family
from detrscope.families.keys.key_map import KeyLayout
from detrscope.families.keys.shapes import Shapes

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
ARGUMENT_KEYS = (
    "args",
    "hyper_parameters",
    "hparams",
    "config",
)  # where training scripts keep their settings


@dataclass(frozen=True)
class ThirdPartyCheckpoint:
    """A checkpoint that is not ours, as read.

    Attributes:
        state: its tensors.
        settings: what its own config says, in our words.
        labels: class names by index in the logits, where it has them.
        path: of the file that `labels` stand in, for errors.
        preprocessing: where it says.
        skipped: parts of it that are not used.
        notes: what was found and done, for the log.
    """

    state: Mapping[str, Tensor]
    settings: dict[str, Any] = field(default_factory=dict)
    labels: Mapping[int, str] = field(default_factory=dict)
    path: Path = Path()
    preprocessing: Preprocessing | None = None
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Arguments(Partial):
    """What the published training scripts' arguments say that shapes do not."""

    dilation: bool | None = None
    nheads: Heads | None = None
    pre_norm: bool | None = None
    with_box_refine: bool | None = None
    two_stage: bool | None = None
    num_queries: Heads | None = None
    enc_n_points: Heads | None = None
    dec_n_points: Heads | None = None


def read_file(path: Path, marks: tuple[str, ...] | None = None) -> ThirdPartyCheckpoint:
    """A `.pth`, `.pt`, `.ckpt`, `.bin` or `.safetensors` file of somebody else's weights.

    Args:
        path: the file.
        marks: keys of which the model has one, so that wrappers' prefixes can be told; None: those of all families.

    Raises:
        UserError: unreadable, holding other objects, or without weights.
    """
    if not isfile(path):  # reading a pipe or device would not end
        raise UserError(f"{path}: {'expected a file' if exists(path) else 'no such file'}")
    if marks is None:
        marks = tuple(layout.mark for family in FAMILIES.values() for layout in family.layouts)
    settings: dict[str, Any] = {}
    if path.suffix == ".safetensors":
        try:
            found = Found(load_file(path))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    else:
        content = read_pickle(path)
        found = find_state(content, path)
        settings = _settings_of_arguments(content, path) if found.keys else {}
    plain = unwrap(found, marks)
    kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in plain.state.values()}
    small = sorted(kinds & {"float16", "bfloat16"})
    notes = (*plain.notes, *(f"weights in {kind}, computed with in float32" for kind in small))
    return ThirdPartyCheckpoint(plain.state, settings, path=path, skipped=plain.skipped, notes=notes)


def read_folder(folder: Path) -> ThirdPartyCheckpoint:
    """A Hugging Face folder: config.json, weights, and the processor's config where there is one.

    Raises:
        UserError: a file is missing or unreadable, or says what no model here can do.
    """
    path = folder / "config.json"
    config = read_config(path)
    files = [folder / name for name in WEIGHT_FILES if (folder / name).exists()]
    if not files:
        raise UserError(f"{folder}: has neither {' nor '.join(WEIGHT_FILES)}")
    foreign = read_file(files[0])
    preprocessing, notes = None, foreign.notes
    for name in PROCESSOR_FILES:
        if (folder / name).exists():
            preprocessing, said = read_processor(folder / name)
            notes += said
            break
    return replace(
        foreign,
        settings=settings_of(config),
        labels=labels_of(config, path),
        path=path,
        preprocessing=preprocessing,
        notes=notes,
    )


def recognise(
    foreign: ThirdPartyCheckpoint, source: str, only: Family | None = None
) -> tuple[Family, KeyLayout, dict[str, Tensor]]:
    """Family, layout and renamed tensors of a foreign checkpoint.

    Raises:
        UserError: no family knows these keys, or some keys are left over.
    """
    for family in (only,) if only else FAMILIES.values():
        for layout in family.layouts:
            if layout.mark in foreign.state:
                try:
                    return family, layout, layout.rename(foreign.state, foreign.settings)
                except UserError as error:
                    raise UserError(f"{source}: {error}") from None
    what = f"of the family '{only.name}'" if only else "of any family known here"
    raise UserError(f"{source}: these are not weights {what} (first keys: {list(foreign.state)[:3]})")


def inferred_settings(
    family: Family, state: Mapping[str, Tensor], foreign: ThirdPartyCheckpoint
) -> dict[str, Any]:
    """The config tree of a recognised checkpoint: what its shapes tell, then what its own config says."""
    return merge(family.infer(Shapes(state)), known_settings(family, foreign))


def known_settings(family: Family, foreign: ThirdPartyCheckpoint) -> dict[str, Any]:
    """What a checkpoint's own config says of settings that the family has."""
    names = {one.name for one in dataclasses.fields(family.config)}
    return {name: value for name, value in foreign.settings.items() if name in names}


def classes_of(
    foreign: ThirdPartyCheckpoint, count: int, *, coco: bool
) -> tuple[ClassTable, tuple[str, ...], bool]:
    """The class table of a foreign checkpoint with `count` classes: its own, COCO's, or plain numbers.

    Args:
        foreign: the checkpoint.
        count: classes of its head.
        coco: whether it is known to be trained on COCO.

    Returns:
        The table, what is to be said of it, and whether it is only assumed.

    Raises:
        UserError: its own names do not fit its head.
    """
    if foreign.labels:
        table, notes = class_table(dict(foreign.labels), count, foreign.path)
        return table, notes, False
    assumed = coco_classes(count)
    if assumed is not None:
        return assumed, () if coco else (f"{count} classes without names: COCO's are assumed",), not coco
    numbered = ClassTable.of_names(f"class {i}" for i in range(count))
    return numbered, (f"{count} classes without names: called class 0 to class {count - 1}",), True


def _settings_of_arguments(content: object, path: Path) -> dict[str, Any]:
    """The arguments of a training script in our words.

    Raises:
        UserError: one of them has the wrong type.
    """
    for key, given in _arguments_in(content):
        fields = validate(Arguments, given, f"{path}: {key}")
        settings: dict[str, Any] = {}
        if fields.dilation is not None:
            settings["backbone"] = {"dilate_last": fields.dilation}
        if fields.nheads is not None:
            settings["encoder"] = {"heads": fields.nheads}
            settings["decoder"] = {"heads": fields.nheads}
        if fields.pre_norm is not None:
            settings["norm"] = "pre" if fields.pre_norm else "post"
        if fields.with_box_refine is not None:
            settings["references"] = references(fields.with_box_refine, bool(fields.two_stage))
            if fields.two_stage and fields.num_queries is not None:
                settings["queries"] = fields.num_queries
        for stack, points in (("encoder", fields.enc_n_points), ("decoder", fields.dec_n_points)):
            if points is not None:
                settings.setdefault(stack, {})["points"] = points
        if settings:
            return settings
    return {}


def _arguments_in(content: object) -> list[tuple[str, dict[str, Any]]]:
    """Settings beside the weights: an argparse.Namespace or a dict, also one inside of another."""
    found: list[tuple[str, dict[str, Any]]] = []
    for key in ARGUMENT_KEYS:
        given = content.get(key) if isinstance(content, Mapping) else None
        given = vars(given) if isinstance(given, argparse.Namespace) else given
        if isinstance(given, Mapping):
            plain = {str(name): value for name, value in given.items()}
            found.append((key, plain))
            found += [(f"{key}.{inner}", arguments) for inner, arguments in _arguments_in(plain)]
    return found
