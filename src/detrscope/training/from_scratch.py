"""Settings for a backbone without pretrained weights: nothing random is frozen or held back in silence."""

from __future__ import annotations

import dataclasses
from typing import Any

from detrscope import families
from detrscope.config import Tree, merge
from detrscope.console import log

ALL_STAGES = 5  # stem and four stages
LEARNING = {"norm": "trainable", "trainable_stages": ALL_STAGES}


def learning_backbone(layer: Tree, below: Tree, defaults: Tree) -> Tree:
    """A layer of settings with what `model.backbone_weights: none` in it brings along.

    Recipes freeze the stem, the first stage and all norms, and give the rest a tenth of the rate, because they start
    from ImageNet's weights. Of random weights that would freeze noise, and keep the rest close to it. What the layer
    itself says of these settings stays as it says.

    Args:
        layer: settings such as those of the command line.
        below: what they are laid over.
        defaults: of all settings.
    """
    whole = merge(defaults, below, layer)
    model, train = whole["model"], whole["train"]
    touched = {"backbone_weights", "variant"} & _section(layer, "model").keys()
    if not touched or model.get("backbone_weights") != "none" or model.get("start_from"):
        return layer
    if model.get("variant") not in families.VARIANTS:
        return layer  # refused by name later
    brought: Tree = {}
    if fields := LEARNING.keys() & _backbone_settings(model["variant"]):
        brought = {"model": {"overrides": {"backbone": {name: LEARNING[name] for name in sorted(fields)}}}}
    if _is_number(train["lr"]) and _is_number(train["lr_backbone"]) and train["lr_backbone"] < train["lr"]:
        brought = merge(brought, {"train": {"lr_backbone": train["lr"]}})
    result = merge(brought, layer)
    if merge(below, result) != merge(below, layer):
        log.info(
            "no pretrained backbone (model.backbone_weights none): all its stages learn, its norms are trainable, at"
            " the full rate; settings that say otherwise win"
        )
    return result


def warn_of_frozen_noise(config: Any) -> None:
    """Warn where random weights of the backbone are frozen or held back all the same.

    Args:
        config: a `RunConfig`.
    """
    model, train = config.model, config.train
    if model.backbone_weights != "none" or model.start_from is not None:
        return
    backbone = families.resolve(model.variant, model.overrides).backbone
    held = {
        "model.overrides.backbone.norm": getattr(backbone, "norm", "trainable") == "frozen",
        "model.overrides.backbone.trainable_stages": getattr(backbone, "trainable_stages", ALL_STAGES)
        < ALL_STAGES,
        "train.lr_backbone": train.lr_backbone < train.lr,
    }
    if names := [name for name, is_held in held.items() if is_held]:
        log.warning(
            "model.backbone_weights is none: %s freezes or slows random weights of the backbone; expected trainable"
            " norms, %d stages and train.lr",
            " and ".join(names),
            ALL_STAGES,
        )


def _section(tree: Tree, key: str) -> dict[str, Any]:
    found = tree.get(key)
    return found if isinstance(found, dict) else {}


def _backbone_settings(variant: str) -> set[str]:
    """The settings that the backbone of a variant has."""
    return {field.name for field in dataclasses.fields(families.VARIANTS[variant].config.backbone)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
