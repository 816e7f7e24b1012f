"""Hugging Face's config.json: every key that changes the outputs is applied, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.json_schema import short_repr, validate
from detrscope.core.text_files import read_json_text
from detrscope.families import FAMILIES
from detrscope.families.keys.hub_config import Heads, HubConfig, Partial

MAX_LISTED = 8  # unnamed classes that are listed one by one
UNNAMED = ("N/A", "")  # names of COCO's unused ids


class BackboneFields(Partial):
    """Keys of the backbone's own config."""

    output_stride: Literal[8, 16, 32] | None = None
    hidden_act: Literal["relu"] = "relu"
    downsample_in_bottleneck: Literal[False] = False
    downsample_in_first_stage: Literal[False] = False


class KeywordFields(Partial):
    """Keys of the arguments of timm."""

    output_stride: Literal[8, 16, 32] | None = None


class ConfigFields(HubConfig):
    """Keys of the configs of DETR and Deformable DETR."""

    activation_function: Literal["relu"] = "relu"
    backbone_config: BackboneFields | None = None
    backbone_kwargs: KeywordFields | None = None
    dilation: bool | None = None
    encoder_attention_heads: Heads | None = None
    decoder_attention_heads: Heads | None = None
    encoder_n_points: Heads | None = None
    decoder_n_points: Heads | None = None
    with_box_refine: bool | None = None
    two_stage: bool | None = None
    two_stage_num_proposals: Heads | None = None

    def settings(self) -> dict[str, Any]:
        """Translate the keys to our settings."""
        strides = [
            getattr(part, "output_stride", None) for part in (self.backbone_config, self.backbone_kwargs)
        ]
        return {
            "backbone": {"dilate_last": bool(self.dilation) or 16 in strides},
            **hugging_face_stack_settings("encoder", self.encoder_attention_heads, self.encoder_n_points),
            **hugging_face_stack_settings("decoder", self.decoder_attention_heads, self.decoder_n_points),
            **hugging_face_reference_settings(
                self.with_box_refine, self.two_stage, self.two_stage_num_proposals
            ),
        }


def read_hugging_face_config(path: Path) -> HubConfig:
    """Read a config.json, by the keys of the family that its `model_type` names.

    Raises:
        UserError: not JSON, or a value of the wrong type or not supported; names the key.
    """
    tree = read_json_text(path)
    kind = tree.get("model_type") if isinstance(tree, dict) else None
    for family in FAMILIES.values():
        if isinstance(kind, str) and kind in family.hub_configs:
            return validate(family.hub_configs[kind], tree, str(path))
    fields = validate(ConfigFields, tree, str(path))
    for part in ("backbone_config", "backbone_kwargs"):
        if getattr(getattr(fields, part), "output_stride", None) == 8:
            raise UserError(f"{path}: {part}.output_stride: expected 16 or 32, found 8")
    return fields


def hugging_face_stack_settings(name: str, heads: int | None, points: int | None) -> dict[str, Any]:
    """Translate the known numbers of heads and sampling points of a stack to our settings."""
    known = {key: value for key, value in (("heads", heads), ("points", points)) if value is not None}
    return {name: known} if known else {}


def hugging_face_reference_settings(
    refine: bool | None, two_stage: bool | None, queries: int | None
) -> dict[str, Any]:
    """Translate Deformable DETR's two switches, and the number of proposals, to our settings."""
    if refine is None:
        return {}
    settings: dict[str, Any] = {"references": "two-stage" if two_stage else "refined" if refine else "fixed"}
    if two_stage and queries is not None:
        settings["queries"] = queries
    return settings


def hugging_face_labels(config: HubConfig, path: Path) -> dict[int, str]:
    """Return class names by index in the logits; empty where the config has none.

    Raises:
        UserError: a key of id2label that is not a whole number from 0, or twice the same number.
    """
    labels: dict[int, str] = {}
    for key, name in (config.id2label or {}).items():
        if not (key.isascii() and key.isdigit()) or len(key) > 9:
            raise UserError(f"{path}: id2label: key {short_repr(key)}: expected a whole number from 0")
        if int(key) in labels:
            raise UserError(f"{path}: id2label: several keys for class {int(key)}")
        labels[int(key)] = name
    return labels


def class_table(labels: dict[int, str], count: int, path: Path) -> tuple[ClassTable, tuple[str, ...]]:
    """Return the class table of a head with `count` classes, and remarks on its names.

    Raises:
        UserError: a name for a class that the head does not have.
    """
    if beyond := [index for index in sorted(labels) if index >= count]:
        hint = ""
        if min(labels) == 1 and max(labels) == count:
            hint = "; it counts from 1: make it count from 0, as the class head does"
        raise UserError(
            f"{path}: id2label: {beyond[0]} ({short_repr(labels[beyond[0]])}): the class head has classes 0 to"
            f" {count - 1}{hint}"
        )
    missing = [index for index in range(count) if index not in labels]
    notes: tuple[str, ...] = ()
    if missing:
        some = ", ".join(map(str, missing[:MAX_LISTED])) + (" ..." if len(missing) > MAX_LISTED else "")
        notes = (f"id2label names {len(labels)} of {count} classes; unnamed: {some}",)
    names = {index: f"unused {index}" if name in UNNAMED else name for index, name in labels.items()}
    return ClassTable(tuple(range(count)), tuple(names.get(i, f"unused {i}") for i in range(count))), notes
