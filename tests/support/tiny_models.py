"""Every variant at a size that a test can afford: few layers, narrow, small backbone; the same path."""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any

import torch

from detrscope.checkpoints.load import load_random_model
from detrscope.checkpoints.native import Loaded
from detrscope.core.classes import ClassTable
from detrscope.core.types import Batch
from detrscope.families import VARIANTS

STACK = {"layers": 2, "heads": 4, "feedforward": 64}
CLASSES = ClassTable((1, 7, 900), ("cell", "dog", "far"))


def tiny_settings(variant: str) -> dict[str, Any]:
    """Overrides that make a variant small."""
    if variant.startswith("sprint-lite"):
        stacks = {"encoder": {**STACK, "layers": 1}, "decoder": {**STACK, "points": (4, 4, 4)}}
        return {"width": 32, "queries": 7, "backbone": {"size": 0, "depthwise": "trainable"}, **stacks}
    if variant.startswith("sprint"):
        slim = {"stem": 8, "widths": (8, 16, 32), "depths": (1, 1, 1)}
        stacks = {"encoder": {**STACK, "layers": 1}, "decoder": STACK}
        return {"width": 32, "queries": 7, "backbone": slim, **stacks}
    if variant.startswith("rtdetr"):
        encoder = {**STACK, "layers": 1, "width": 32, "hidden": 32}
        decoder = {**STACK, "points": (4, 4, 4)}
        backbone = {"name": "resnet18d", "norm": "frozen", "trainable_stages": 5}
        return {"width": 32, "queries": 7, "encoder": encoder, "decoder": decoder, "backbone": backbone}
    if variant.startswith("dfine"):
        encoder = {**STACK, "layers": 1, "width": 32, "hidden": 16, "blocks": 1}
        decoder = {**STACK, "points": (2, 3, 2)}
        backbone = {"name": "hgnetv2_b0", "norm": "frozen", "trainable_stages": 5}
        edges = {"bins": 8, "scale": 4.0}
        more = {"encoder": encoder, "decoder": decoder, "backbone": backbone, "edges": edges}
        return {"width": 32, "queries": 7, "stages": (2, 3, 4), **more}
    if variant.startswith("deimv2"):
        small = {"width": 32, "queries": 7, "edges": {"bins": 8, "scale": 4.0}}
        encoder = {**STACK, "layers": int(variant == "deimv2-n"), "width": 32, "hidden": 16, "blocks": 1}
        backbone = {"norm": "frozen", "trainable_stages": 5}
        if variant != "deimv2-n":
            backbone = {"name": "hgnetv2_atto", **backbone}
        return {**small, "encoder": encoder, "decoder": {**STACK, "points": (3, 2)}, "backbone": backbone}
    if variant.startswith("lwdetr"):
        vit = {"width": 32, "layers": 2, "heads": 4, "grid": 3, "window_layers": (0,), "maps": (0, 1)}
        decoder = {**STACK, "cross_heads": 4, "points": 2}
        sizes = {"width": 32, "queries": 7, "groups": 2, "scales": (2.0, 1.0)}
        return {**sizes, "backbone": {**vit, "windows": 4, "drop_path": 0.0}, "decoder": decoder}
    if variant.startswith("rfdetr"):
        vit = {
            "width": 32,
            "layers": 2,
            "heads": 4,
            "patch": 16,
            "grid": 3,
            "window_layers": (0,),
            "maps": (0, 1),
        }
        decoder = {**STACK, "cross_heads": 4, "points": 2}
        return {"width": 32, "queries": 7, "groups": 2, "backbone": {**vit, "windows": 2}, "decoder": decoder}
    dilated = VARIANTS[variant].config.backbone.dilate_last
    panoptic = variant.endswith("-panoptic")
    backbone = {"name": "resnet50" if dilated and not panoptic else "resnet18"}
    if panoptic:  # one model for all of them: dilation is seen in those without masks
        backbone["dilate_last"] = False
    return {"width": 32, "queries": 7, "encoder": STACK, "decoder": STACK, "backbone": backbone}


def selects_tokens(variant: str) -> bool:
    """Whether queries are tokens of the image, selected by their scores."""
    families = ("sprint", "rtdetr", "dfine", "deimv2", "lwdetr", "rfdetr")
    return variant.startswith(families) or variant.endswith("two-stage")


@cache
def distinct() -> tuple[str, ...]:
    """Variants that differ at a size for tests; those that differ in size only are one model."""
    first: dict[str, str] = {}
    for variant in VARIANTS:
        card = built(variant).card
        first.setdefault(json.dumps([card.family, card.config], sort_keys=True), variant)
    return tuple(first.values())


def tiny(variant: str) -> Loaded:
    """A small model of a variant, random weights, three classes whose ids are not contiguous; yours to change."""
    return copy.deepcopy(built(variant))


@cache
def built(variant: str) -> Loaded:
    """The same one for everybody: not to be changed."""
    torch.manual_seed(0)
    loaded = load_random_model(variant, tiny_settings(variant), CLASSES)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if not name.startswith("backbone"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return loaded


def padded_batch(height: int = 64, width: int = 96) -> Batch:
    """Two images, the second one padded at the bottom and at the right."""
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    padding = torch.zeros(2, height, width, dtype=torch.bool)
    padding[1, 32:], padding[1, :, 64:] = True, True
    return Batch(images.masked_fill(padding[:, None], 0.0), padding)
