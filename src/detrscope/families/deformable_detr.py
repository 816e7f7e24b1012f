"""Deformable DETR: Zhu et al. 2020, "Deformable Transformers for End-to-End Object Detection", arXiv:2010.04159."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from detrscope.blocks.decoder import Decoder
from detrscope.blocks.deformable_attention import DeformableCrossAttention, DeformableSelfAttention
from detrscope.blocks.encoder import Encoder
from detrscope.blocks.heads import LayeredHeads, SetHeads
from detrscope.blocks.layers import MLP, zero_last
from detrscope.blocks.neck import DeformableNeck
from detrscope.blocks.path import DetectionTransformer
from detrscope.blocks.position import SinePosition
from detrscope.blocks.queries import PointQueries
from detrscope.blocks.token_queries import TwoStageQueries
from detrscope.config import config_section, setting, settings
from detrscope.families.family import Family, OnHub, Variant
from detrscope.families.keys.deformable_detr import HUGGING_FACE, PUBLISHED
from detrscope.families.keys.shapes import Shapes
from detrscope.families.masks import TOKEN_MASK_HEAD_HELP, TokenMaskHeadName, build_mask_head
from detrscope.families.settings import (
    MAX_LEVELS,
    MAX_POINTS,
    BackboneConfig,
    BoxLayers,
    LayersConfig,
    Queries,
    Width,
    require_backbone_stages,
    require_stacks,
)
from detrscope.families.stacks import decoder_layers, encoder_layers

PRIOR_LOGIT = -math.log(99)  # initial logit of a class: probability 0.01
SMALL = -2.0  # initial logit of a box's size where references are points

References = Literal["fixed", "refined", "two-stage"]


@settings
class SamplingLayersConfig(LayersConfig):
    """A stack of transformer layers with deformable attention."""

    feedforward: Width = setting(1024, "hidden width of the feed-forward")
    points: int = setting(4, "sampling points of each head on each map", ge=1, le=MAX_POINTS)


@settings
class DeformableDetrConfig:
    """Settings of the family `deformable_detr`."""

    width: Width = setting(256, "model width D")
    queries: Queries = setting(300, "object queries")
    stages: tuple[int, ...] = setting(
        (2, 3, 4), "backbone stages that give feature maps (strides 4, 8, 16, 32)"
    )
    extra_levels: int = setting(
        1, "number of coarser maps made from the last one, each of half the size", ge=0, le=MAX_LEVELS
    )
    references: References = setting(
        "fixed",
        "learned reference points (fixed), each layer refining them to boxes (refined), or boxes that the encoder"
        " proposes and layers refine (two-stage)",
    )
    box_layers: BoxLayers = setting(3, "linear layers of the box heads")
    mask_head: TokenMaskHeadName = setting("none", TOKEN_MASK_HEAD_HELP)
    backbone: BackboneConfig = config_section(BackboneConfig)
    encoder: SamplingLayersConfig = config_section(SamplingLayersConfig)
    decoder: SamplingLayersConfig = config_section(SamplingLayersConfig)

    def __post_init__(self) -> None:
        require_stacks(self.width, self.encoder, self.decoder, multiple=4)
        require_backbone_stages("stages", self.stages, 4)

    @property
    def levels(self) -> int:
        """L, the number of feature maps."""
        return len(self.stages) + self.extra_levels


def build(config: DeformableDetrConfig, classes: int) -> DetectionTransformer:
    """Build the model with random weights; K = classes, scored by sigmoids."""
    d = config.width
    backbone = config.backbone.build(stages=config.stages)
    class_heads, box_heads = _head_pairs(config, classes)

    def self_attention(site: str) -> nn.Module:
        c = config.encoder
        return DeformableSelfAttention(d, c.heads, (c.points,) * config.levels, site)

    def cross_attention(site: str) -> nn.Module:
        c = config.decoder
        return DeformableCrossAttention(d, c.heads, (c.points,) * config.levels, site)

    return DetectionTransformer(
        backbone=backbone,
        neck=DeformableNeck(backbone.channels, d, config.extra_levels, SinePosition(d, offset=-0.5)),
        encoder=Encoder(encoder_layers(d, config.encoder, "post", self_attention), nn.Identity()),
        queries=TwoStageQueries(config.queries, d, class_heads.pop(), box_heads.pop())
        if config.references == "two-stage"
        else PointQueries(config.queries, d),
        decoder=Decoder(decoder_layers(d, config.decoder, "post", cross_attention), nn.Identity()),
        heads=SetHeads(class_heads[0], box_heads[0])
        if config.references == "fixed"
        else LayeredHeads(class_heads, box_heads),
        scoring="sigmoid",
        mask_head=build_mask_head(config.mask_head, d, config.decoder.heads, config.decoder.layers),
    )


def _head_pairs(config: DeformableDetrConfig, classes: int) -> tuple[list[nn.Linear], list[MLP]]:
    """Build class and box heads: one pair, one per decoder layer, or those and one more for the proposals.

    Boxes start at their reference; where that is a point, they start small.
    """
    layers = config.decoder.layers
    count = {"fixed": 1, "refined": layers, "two-stage": layers + 1}[config.references]
    class_heads = [nn.Linear(config.width, classes) for _ in range(count)]
    boxes = [zero_last(MLP(*[config.width] * config.box_layers, 4)) for _ in range(count)]
    for class_head in class_heads:
        nn.init.constant_(class_head.bias, PRIOR_LOGIT)
    if config.references != "two-stage":
        with torch.no_grad():
            boxes[0].last.bias[2:] = SMALL
    return class_heads, boxes


def infer_family_settings(shapes: Shapes) -> dict[str, object]:
    """Infer settings from a checkpoint's shapes, except heads and dilation; points assume 8 heads."""
    levels, width = shapes.size("neck.level", 0), shapes.size("neck.level", 1)
    extra = sum(shapes.size(f"neck.projections.{n}.weight", -1) == 3 for n in range(levels))
    two_stage = shapes.has("queries.projection.weight")
    refined = shapes.has("heads.class_heads.0.weight")
    box_head = "heads.box_heads.0.layers" if refined else "heads.box_head.layers"
    settings: dict[str, object] = {
        "width": width,
        "stages": tuple(range(5 - (levels - extra), 5)),
        "extra_levels": extra,
        "references": "two-stage" if two_stage else "refined" if refined else "fixed",
        "box_layers": shapes.count(box_head),
        "backbone": {"name": shapes.resnet("backbone.body")},
        "encoder": _stack(shapes, "encoder", "self_attention", levels),
        "decoder": _stack(shapes, "decoder", "cross_attention", levels),
    }
    if not two_stage:
        settings["queries"] = shapes.size("queries.embedding.weight", 0)
    return settings


def _stack(shapes: Shapes, name: str, attention: str, levels: int) -> dict[str, int]:
    settings = shapes.stack(name)
    if settings["layers"]:
        rows = shapes.size(f"{name}.layers.0.{attention}.weights.bias", 0)
        settings["points"] = max(1, rows // (8 * levels))
    return settings


def count_classes(shapes: Shapes) -> int:
    """Return the number of classes of a checkpoint."""
    return shapes.rows("heads.class_head.weight") or shapes.rows("heads.class_heads.0.weight")


BASE = DeformableDetrConfig()
SINGLE_SCALE = replace(BASE, stages=(4,), extra_levels=0)
DC5 = replace(SINGLE_SCALE, backbone=BackboneConfig(dilate_last=True))


def _variant(
    suffix: str, description: str, config: DeformableDetrConfig, repository: str, ap: float
) -> Variant:
    published = OnHub(f"SenseTime/deformable-detr{repository}", ap)
    return Variant(f"deformable-detr-r50{suffix}", description, config, published)


FAMILY = Family(
    name="deformable_detr",
    config=DeformableDetrConfig,
    build=build,
    infer=infer_family_settings,
    classes=count_classes,
    layouts=(PUBLISHED, HUGGING_FACE),
    query_count="queries",
    variants=(
        _variant("", "resnet50, strides 8 to 64", BASE, "", 44.5),
        _variant("-single-scale", "resnet50, stride 32", SINGLE_SCALE, "-single-scale", 39.4),
        _variant("-single-scale-dc5", "resnet50, stride 16", DC5, "-single-scale-dc5", 41.5),
        _variant(
            "-refine",
            "strides 8 to 64, each layer refines the boxes",
            replace(BASE, references="refined"),
            "-with-box-refine",
            46.2,
        ),
        _variant(
            "-two-stage",
            "strides 8 to 64, the encoder proposes boxes, each layer refines them",
            replace(BASE, references="two-stage"),
            "-with-box-refine-two-stage",
            46.9,
        ),
    ),
)
