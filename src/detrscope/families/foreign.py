"""Other people's files: read safely, recognised by their keys, turned into our names and settings."""

from __future__ import annotations

import argparse
import dataclasses
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from detrscope.config import merge
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.preprocessing import Preprocessing
from detrscope.families import FAMILIES
from detrscope.families.coco_classes import coco_classes
from detrscope.families.layouts import Layout, Shapes
from detrscope.families.variant import Family

# What a published training script saves beside the weights; of no use for another run.
TRAINING_STATE = ("optimizer", "lr_scheduler", "epoch", "args", "scaler")


@dataclass(frozen=True)
class Foreign:
    """A checkpoint that is not ours, as read."""

    state: Mapping[str, Tensor]
    settings: dict[str, Any] = field(default_factory=dict)  # what its own config says, in our words
    classes: ClassTable | None = None
    preprocessing: Preprocessing | None = None
    skipped: tuple[str, ...] = ()  # parts of the file that are not weights


def read_file(path: Path) -> Foreign:
    """A `.pth`, `.pt`, `.bin` or `.safetensors` file of published weights.

    Pickles are read with `weights_only`; besides tensors only an argparse.Namespace is let in.

    Raises:
        UserError: unreadable, holding other objects, or without weights.
    """
    if path.suffix == ".safetensors":
        try:
            return Foreign(load_file(path))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a readable PyTorch checkpoint ({_reason(error)})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a dict of tensors, found {type(content).__name__}")
    state = content.get("model", content)
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) != len(state):
        raise UserError(
            f"{path}: expected a dict of tensors (or one under 'model'); found keys {list(state)[:5]}"
        )
    arguments = content.get("args") if state is not content else None
    skipped = tuple(key for key in content if key in TRAINING_STATE) if state is not content else ()
    return Foreign(tensors, _settings_of_namespace(arguments), skipped=skipped)


def read_folder(folder: Path) -> Foreign:
    """A Hugging Face folder: config.json, weights, and preprocessor_config.json where there is one.

    Raises:
        UserError: a file is missing or unreadable.
    """
    config = _json(folder / "config.json")
    files = [folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).exists()]
    if not files:
        raise UserError(f"{folder}: has neither model.safetensors nor pytorch_model.bin")
    labels = {int(i): name for i, name in (config.get("id2label") or {}).items()}
    classes = None
    if labels and sorted(labels) == list(range(len(labels))):
        names = [labels[i] for i in range(len(labels))]
        classes = ClassTable(tuple(range(len(names))), tuple(_unused(i, n) for i, n in enumerate(names)))
    preprocessing = None
    if (folder / "preprocessor_config.json").exists():
        preprocessing = _preprocessing(_json(folder / "preprocessor_config.json"))
    return Foreign(read_file(files[0]).state, _settings_of_hf(config), classes, preprocessing)


def recognise(
    foreign: Foreign, source: str, only: Family | None = None
) -> tuple[Family, Layout, dict[str, Tensor]]:
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


def settings_of(family: Family, state: Mapping[str, Tensor], foreign: Foreign) -> dict[str, Any]:
    """The config tree of a recognised checkpoint: what its shapes tell, then what its own config says."""
    names = {field.name for field in dataclasses.fields(family.config)}
    known = {name: value for name, value in foreign.settings.items() if name in names}
    return merge(family.infer(Shapes(state)), known)


def classes_of(foreign: Foreign, count: int) -> ClassTable:
    """The class table of a foreign checkpoint with `count` classes: its own, COCO's, or plain numbers."""
    if foreign.classes is not None and len(foreign.classes) == count:
        return foreign.classes
    return coco_classes(count) or ClassTable.of_names(f"class {i}" for i in range(count))


def _reason(error: Exception) -> str:
    """Reasons of torch run over a page; the first sentence, or what an unpickling refused."""
    if isinstance(error, pickle.UnpicklingError) and "Unsupported" in str(error):
        return "it holds objects other than tensors, which could run code when loaded"
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return first.split(". ")[0][:120]


def _unused(index: int, name: str) -> str:
    return f"unused {index}" if name in ("N/A", "") else name


def _settings_of_namespace(arguments: argparse.Namespace | None) -> dict[str, Any]:
    """What the published training script's arguments say that shapes do not."""
    if not isinstance(arguments, argparse.Namespace):
        return {}
    given = vars(arguments)
    settings: dict[str, Any] = {}
    if "dilation" in given:
        settings["backbone"] = {"dilate_last": bool(given["dilation"])}
    if "nheads" in given:
        settings["encoder"] = {"heads": given["nheads"]}
        settings["decoder"] = {"heads": given["nheads"]}
    if "pre_norm" in given:
        settings["norm"] = "pre" if given["pre_norm"] else "post"
    if "with_box_refine" in given:
        two_stage = bool(given.get("two_stage"))
        settings["references"] = _references(bool(given["with_box_refine"]), two_stage)
        if two_stage and "num_queries" in given:
            settings["queries"] = given["num_queries"]
    for stack, name in (("encoder", "enc_n_points"), ("decoder", "dec_n_points")):
        if name in given:
            settings.setdefault(stack, {})["points"] = given[name]
    return settings


def _references(refine: bool, two_stage: bool) -> str:
    """Deformable DETR's two switches in our words."""
    return "two-stage" if two_stage else "refined" if refine else "fixed"


def _settings_of_hf(config: dict[str, Any]) -> dict[str, Any]:
    """What a Hugging Face config says that shapes do not."""
    settings: dict[str, Any] = {}
    backbone = config.get("backbone_config") or {}
    strided = (
        backbone.get("output_stride") == 16
        or (config.get("backbone_kwargs") or {}).get("output_stride") == 16
    )
    settings["backbone"] = {"dilate_last": bool(config.get("dilation") or strided)}
    for stack in ("encoder", "decoder"):
        if f"{stack}_attention_heads" in config:
            settings[stack] = {"heads": config[f"{stack}_attention_heads"]}
        if f"{stack}_n_points" in config:
            settings.setdefault(stack, {})["points"] = config[f"{stack}_n_points"]
    if "with_box_refine" in config:
        two_stage = bool(config.get("two_stage"))
        settings["references"] = _references(bool(config["with_box_refine"]), two_stage)
        if two_stage and "two_stage_num_proposals" in config:
            settings["queries"] = config["two_stage_num_proposals"]
    return settings


def _preprocessing(config: dict[str, Any]) -> Preprocessing:
    size = config.get("size") or {}
    default = Preprocessing()
    if isinstance(size, int):
        size = {"shortest_edge": size, "longest_edge": config.get("max_size", default.long_side)}
    return Preprocessing(
        short_side=size.get("shortest_edge", default.short_side),
        long_side=size.get("longest_edge", default.long_side),
        mean=tuple(config.get("image_mean", default.mean)),
        std=tuple(config.get("image_std", default.std)),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
