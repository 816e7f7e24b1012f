"""Deformable DETR: Zhu et al. 2020, "Deformable Transformers for End-to-End Object Detection", arXiv:2010.04159."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from detrscope.blocks.decoder import ReferenceDecoder, RefiningDecoderLayer
from detrscope.blocks.deformable_attention import DeformableCrossAttention, DeformableSelfAttention
from detrscope.blocks.encoder import DeformableEncoder, DeformableEncoderLayer
from detrscope.blocks.heads import LayeredHeads, ReferenceHeads
from detrscope.blocks.layers import MLP, Attention, FeedForward, PostNorm
from detrscope.blocks.neck import DeformableNeck
from detrscope.blocks.path import DetectionTransformer
from detrscope.blocks.position import SinePosition
from detrscope.blocks.queries import PointQueries, ProposedQueries
from detrscope.config import require, section, setting, settings
from detrscope.families.family import Family, OnHub, Variant
from detrscope.families.keys.deformable_detr import HUGGING_FACE, PUBLISHED
from detrscope.families.keys.key_map import Shapes
from detrscope.families.settings import (
    MOST_BOX_LAYERS,
    MOST_LEVELS,
    MOST_POINTS,
    MOST_QUERIES,
    WIDEST,
    BackboneConfig,
    LayersConfig,
    require_stacks,
)

PRIOR_LOGIT = -math.log(99)  # logit of probability 0.01: what a class starts from
SMALL = -2.0  # logit of a box's size at the start, where no reference has a size

References = Literal["fixed", "refined", "two-stage"]


@settings
class SamplingLayersConfig(LayersConfig):
    """A stack of transformer layers with deformable attention."""

    feedforward: int = setting(1024, "hidden width of the feed-forward", ge=1, le=WIDEST)
    points: int = setting(4, "sampling points of each head on each map", ge=1, le=MOST_POINTS)


@settings
class DeformableDetrConfig:
    """Settings of the family `deformable_detr`."""

    width: int = setting(256, "model width D")
    queries: int = setting(300, "object queries", ge=1, le=MOST_QUERIES)
    stages: tuple[int, ...] = setting(
        (2, 3, 4), "which stages of the backbone give maps (strides 4, 8, 16, 32)"
    )
    extra_levels: int = setting(
        1, "coarser maps made of the last one, each of half the size", ge=0, le=MOST_LEVELS
    )
    references: References = setting(
        "fixed",
        "learned reference points (fixed), each layer refining them to boxes (refined), or boxes that the encoder"
        " proposes and layers refine (two-stage)",
    )
    box_layers: int = setting(3, "linear layers of the box heads", ge=1, le=MOST_BOX_LAYERS)
    backbone: BackboneConfig = section(BackboneConfig)
    encoder: SamplingLayersConfig = section(SamplingLayersConfig)
    decoder: SamplingLayersConfig = section(SamplingLayersConfig)

    def __post_init__(self) -> None:
        require_stacks(self.width, self.encoder, self.decoder, multiple=4)
        ordered = list(self.stages) == sorted(set(self.stages)) and len(self.stages) > 0
        fine = ordered and all(1 <= stage <= 4 for stage in self.stages)
        require(fine, "stages", list(self.stages), "some of 1 to 4, in order")

    @property
    def levels(self) -> int:
        """L, the maps that tokens come from."""
        return len(self.stages) + self.extra_levels


def build(config: DeformableDetrConfig, classes: int) -> DetectionTransformer:
    """The model with random weights; K = classes, scored by sigmoids."""
    d = config.width
    backbone = config.backbone.build(stages=config.stages)
    class_heads, box_heads = _head_pairs(config, classes)
    refining = config.references != "fixed"
    return DetectionTransformer(
        backbone=backbone,
        neck=DeformableNeck(backbone.channels, d, config.extra_levels, SinePosition(d, offset=-0.5)),
        encoder=DeformableEncoder(_encoder_layers(config), nn.Identity()),
        queries=ProposedQueries(config.queries, d, class_heads.pop(), box_heads.pop())
        if config.references == "two-stage"
        else PointQueries(config.queries, d),
        decoder=ReferenceDecoder(_decoder_layers(config), nn.Identity()),
        heads=LayeredHeads(class_heads, box_heads)
        if refining
        else ReferenceHeads(class_heads[0], box_heads[0]),
        scoring="sigmoid",
    )


def _encoder_layers(config: DeformableDetrConfig) -> list[DeformableEncoderLayer]:
    d, c = config.width, config.encoder
    return [
        DeformableEncoderLayer(
            DeformableSelfAttention(d, c.heads, (c.points,) * config.levels, f"encoder.{i}.self"),
            FeedForward(d, c.feedforward, c.dropout),
            (PostNorm(d, c.dropout), PostNorm(d, c.dropout)),
        )
        for i in range(c.layers)
    ]


def _decoder_layers(config: DeformableDetrConfig) -> list[RefiningDecoderLayer]:
    d, c = config.width, config.decoder
    return [
        RefiningDecoderLayer(
            Attention(d, c.heads, c.dropout, f"decoder.{i}.self"),
            DeformableCrossAttention(d, c.heads, (c.points,) * config.levels, f"decoder.{i}.cross"),
            FeedForward(d, c.feedforward, c.dropout),
            (PostNorm(d, c.dropout), PostNorm(d, c.dropout), PostNorm(d, c.dropout)),
        )
        for i in range(c.layers)
    ]


def _head_pairs(config: DeformableDetrConfig, classes: int) -> tuple[list[nn.Linear], list[MLP]]:
    """Class and box heads: one pair, one for each decoder layer, or those and one more for the proposals.

    Boxes start where their reference is; where that is a point, they start small.
    """
    layers = config.decoder.layers
    count = {"fixed": 1, "refined": layers, "two-stage": layers + 1}[config.references]
    class_heads = [nn.Linear(config.width, classes) for _ in range(count)]
    boxes = [MLP(*[config.width] * config.box_layers, 4) for _ in range(count)]
    for class_head, box_head in zip(class_heads, boxes, strict=True):
        nn.init.constant_(class_head.bias, PRIOR_LOGIT)
        nn.init.zeros_(box_head.last.weight)
        nn.init.zeros_(box_head.last.bias)
    if config.references != "two-stage":
        with torch.no_grad():
            boxes[0].last.bias[2:] = SMALL
    return class_heads, boxes


def infer(shapes: Shapes) -> dict[str, object]:
    """The settings that a checkpoint's shapes tell; heads and dilation are not among them, points only for 8 heads."""
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
    found = shapes.stack(name)
    if found["layers"]:
        rows = shapes.size(f"{name}.layers.0.{attention}.weights.bias", 0)
        found["points"] = max(1, rows // (8 * levels))
    return found


def count_classes(shapes: Shapes) -> int:
    """How many classes a checkpoint knows."""
    return shapes.rows("heads.class_head.weight") or shapes.rows("heads.class_heads.0.weight")


BASE = DeformableDetrConfig()
SINGLE_SCALE = replace(BASE, stages=(4,), extra_levels=0)
DC5 = replace(SINGLE_SCALE, backbone=BackboneConfig(dilate_last=True))


def _variant(suffix: str, what: str, config: DeformableDetrConfig, repository: str, ap: float) -> Variant:
    published = OnHub(f"SenseTime/deformable-detr{repository}", ap)
    return Variant(f"deformable-detr-r50{suffix}", what, config, published)


FAMILY = Family(
    name="deformable_detr",
    config=DeformableDetrConfig,
    build=build,
    infer=infer,
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
