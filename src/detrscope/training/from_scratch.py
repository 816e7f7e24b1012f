"""Settings for a backbone without pretrained weights, so that no random weights are frozen or slowed silently."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from detrscope import families
from detrscope.config import Tree, merge_configs
from detrscope.console import log

if TYPE_CHECKING:
    from detrscope.training.config import RunConfig

ALL_STAGES = 5  # stem and four stages
TRAINABLE = {"norm": "trainable", "trainable_stages": ALL_STAGES, "depthwise": "trainable"}


def train_backbone_from_scratch(config: RunConfig, layer: Tree) -> Tree:
    """Return the settings that make the backbone trainable, where settings turn pretrained weights off.

    Recipes freeze the stem, the first stage and all norms, and give the rest a tenth of the rate, because they start
    from ImageNet's weights. With random weights, this would freeze untrained layers and slow the others.

    Args:
        config: all settings, with those of the layer.
        layer: settings such as those of the command line.
    """
    model, train = config.model, config.train
    touched = {"backbone_weights", "variant"} & layer.get("model", {}).keys()
    if not touched or model.backbone_weights != "none" or model.start_from:
        return {}
    backbone = families.resolve_variant(model.variant, model.overrides).backbone
    names = [field.name for field in dataclasses.fields(backbone) if field.name in TRAINABLE]
    result: Tree = {"model": {"overrides": {"backbone": {name: TRAINABLE[name] for name in names}}}}
    rates = {"train": {"lr_backbone": train.lr}} if train.lr_backbone < train.lr else {}
    return merge_configs(result if names else {}, rates)


def warn_of_frozen_random_weights(config: RunConfig) -> None:
    """Warn where random weights of the backbone are frozen or slowed all the same."""
    model, train = config.model, config.train
    if model.backbone_weights != "none" or model.start_from is not None:
        return
    backbone = families.resolve_variant(model.variant, model.overrides).backbone
    slowed = {
        "model.overrides.backbone.norm": getattr(backbone, "norm", "trainable") == "frozen",
        "model.overrides.backbone.depthwise": getattr(backbone, "depthwise", "trainable") == "frozen",
        "model.overrides.backbone.trainable_stages": getattr(backbone, "trainable_stages", ALL_STAGES)
        < ALL_STAGES,
        "train.lr_backbone": train.lr_backbone < train.lr,
    }
    if names := [name for name, is_slowed in slowed.items() if is_slowed]:
        log.warning(
            "model.backbone_weights is none: %s freezes or slows random weights of the backbone; expected trainable"
            " norms, %d stages and train.lr",
            " and ".join(names),
            ALL_STAGES,
        )
