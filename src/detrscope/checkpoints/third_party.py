"""Read third-party checkpoints: safely, recognised by their keys, renamed to our keys and settings."""

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
    class_table,
    hugging_face_labels,
    hugging_face_reference_settings,
    hugging_face_stack_settings,
    read_hugging_face_config,
)
from detrscope.checkpoints.hugging_face_processor import read_processor
from detrscope.checkpoints.safe_pickle import read_pickle
from detrscope.checkpoints.unwrap import State, find_state, unwrap
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.json_schema import validate
from detrscope.core.preprocessing import Preprocessing
from detrscope.families import FAMILIES
from detrscope.families.family import Family
from detrscope.families.keys.hub_config import Heads, Partial
from detrscope.families.keys.key_map import KeyLayout

HUB_CONFIG, HUB_WEIGHTS = "config.json", "model.safetensors"
WEIGHT_FILES = (HUB_WEIGHTS, "pytorch_model.bin")
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
ARGUMENT_KEYS = (
    "args",
    "hyper_parameters",
    "hparams",
    "config",
)  # where training scripts store their settings


@dataclass(frozen=True)
class ThirdPartyCheckpoint:
    """A third-party checkpoint.

    Attributes:
        state: tensors by third-party key.
        settings: settings from its own config, under this package's names.
        labels: class names by index in the logits, where it has them.
        path: file of `labels`, for errors.
        preprocessing: preprocessing, where it has one.
        skipped: entries that are not used.
        notes: remarks for the log.
    """

    state: Mapping[str, Tensor]
    settings: dict[str, Any] = field(default_factory=dict)
    labels: Mapping[int, str] = field(default_factory=dict)
    path: Path = Path()
    preprocessing: Preprocessing | None = None
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Arguments(Partial):
    """Arguments of the published training scripts that cannot be inferred from tensor shapes."""

    dilation: bool | None = None
    nheads: Heads | None = None
    pre_norm: bool | None = None
    with_box_refine: bool | None = None
    two_stage: bool | None = None
    num_queries: Heads | None = None
    enc_n_points: Heads | None = None
    dec_n_points: Heads | None = None


def read_third_party_file(path: Path, marks: tuple[str, ...] | None = None) -> ThirdPartyCheckpoint:
    """Read a `.pth`, `.pt`, `.ckpt`, `.bin` or `.safetensors` file of third-party weights.

    Args:
        path: the file.
        marks: keys of which the model has one, to recognise the prefixes of wrappers; None: those of all families.

    Raises:
        UserError: unreadable, holding other objects, or without weights.
    """
    if not isfile(path):  # reading a pipe or device would never end
        raise UserError(f"{path}: {'expected a file' if exists(path) else 'no such file'}")
    if marks is None:
        marks = tuple(layout.mark for family in FAMILIES.values() for layout in family.layouts)
    settings: dict[str, Any] = {}
    if path.suffix == ".safetensors":
        try:
            state = State(load_file(path))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    else:
        content = read_pickle(path)
        state = find_state(content, path)
        settings = _settings_of_arguments(content, path) if state.path else {}
    state = unwrap(state, marks)
    types = {str(tensor.dtype).removeprefix("torch.") for tensor in state.tensors.values()}
    half = sorted(types & {"float16", "bfloat16"})
    notes = (*state.notes, *(f"weights in {name}, converted to float32" for name in half))
    return ThirdPartyCheckpoint(state.tensors, settings, path=path, skipped=state.skipped, notes=notes)


def read_third_party_folder(folder: Path) -> ThirdPartyCheckpoint:
    """Read a Hugging Face folder: config.json, weights, and the processor's config if there is one.

    Raises:
        UserError: a file is missing, unreadable, or has unsupported values.
    """
    path = folder / HUB_CONFIG
    config = read_hugging_face_config(path)
    files = [folder / name for name in WEIGHT_FILES if (folder / name).exists()]
    if not files:
        raise UserError(f"{folder}: has neither {' nor '.join(WEIGHT_FILES)}")
    checkpoint = read_third_party_file(files[0])
    preprocessing, notes = None, checkpoint.notes
    for name in PROCESSOR_FILES:
        if (folder / name).exists():
            preprocessing, remarks = read_processor(folder / name)
            notes += remarks
            break
    return replace(
        checkpoint,
        settings=config.settings(),
        labels=hugging_face_labels(config, path),
        path=path,
        preprocessing=preprocessing,
        notes=notes,
    )


def recognise(
    checkpoint: ThirdPartyCheckpoint, source: str, only: Family | None = None
) -> tuple[Family, KeyLayout, dict[str, Tensor]]:
    """Return family, key layout and renamed tensors of a checkpoint.

    Raises:
        UserError: the keys match no family, or some keys are left over.
    """
    for family in (only,) if only else FAMILIES.values():
        for layout in family.layouts:
            if layout.mark in checkpoint.state:
                try:
                    return family, layout, layout.rename(checkpoint.state, checkpoint.settings)
                except UserError as error:
                    raise UserError(f"{source}: {error}") from None
    families = f"the family '{only.name}'" if only else "any known family"
    raise UserError(f"{source}: not weights of {families} (first keys: {list(checkpoint.state)[:3]})")


def third_party_settings(family: Family, checkpoint: ThirdPartyCheckpoint) -> dict[str, Any]:
    """Return those settings of a checkpoint's own config that the family has."""
    names = {field.name for field in dataclasses.fields(family.config)}
    return {name: value for name, value in checkpoint.settings.items() if name in names}


def third_party_classes(
    checkpoint: ThirdPartyCheckpoint, count: int, *, coco: bool
) -> tuple[ClassTable, tuple[str, ...], bool]:
    """Return the class table of a checkpoint with `count` classes: its own, COCO's, or plain numbers.

    Args:
        checkpoint: the checkpoint.
        count: number of classes of its head.
        coco: whether it is known to be trained on COCO.

    Returns:
        The table, remarks on it, and whether it is only assumed.

    Raises:
        UserError: its own names do not fit its head.
    """
    if checkpoint.labels:
        table, notes = class_table(dict(checkpoint.labels), count, checkpoint.path)
        return table, notes, False
    assumed = coco_classes(count)
    if assumed is not None:
        return assumed, () if coco else (f"{count} classes without names: COCO's are assumed",), not coco
    numbered = ClassTable.of_names(f"class {i}" for i in range(count))
    return numbered, (f"{count} classes without names: called class 0 to class {count - 1}",), True


def _settings_of_arguments(content: object, path: Path) -> dict[str, Any]:
    """Translate the arguments of a training script to our settings.

    Raises:
        UserError: an argument has the wrong type.
    """
    for key, arguments in _arguments_in(content):
        fields = validate(Arguments, arguments, f"{path}: {key}")
        settings = {
            **hugging_face_stack_settings("encoder", fields.nheads, fields.enc_n_points),
            **hugging_face_stack_settings("decoder", fields.nheads, fields.dec_n_points),
            **hugging_face_reference_settings(fields.with_box_refine, fields.two_stage, fields.num_queries),
        }
        if fields.dilation is not None:
            settings["backbone"] = {"dilate_last": fields.dilation}
        if fields.pre_norm is not None:
            settings["norm"] = "pre" if fields.pre_norm else "post"
        if settings:
            return settings
    return {}


def _arguments_in(content: object) -> list[tuple[str, dict[str, Any]]]:
    """List the settings beside the weights, as key and dict: a Namespace or a dict, possibly nested."""
    arguments: list[tuple[str, dict[str, Any]]] = []
    for key in ARGUMENT_KEYS:
        value = content.get(key) if isinstance(content, Mapping) else None
        value = vars(value) if isinstance(value, argparse.Namespace) else value
        if isinstance(value, Mapping):
            tree = {str(name): inner for name, inner in value.items()}
            arguments += [(key, tree), *((f"{key}.{inner}", nested) for inner, nested in _arguments_in(tree))]
    return arguments
