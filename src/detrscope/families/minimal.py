"""Minimal DETR: the teaching model of examples/minimal_detr.py, from the blocks of the other families.

Carion et al. 2020, arXiv:2005.12872, appendix A.6, and the `detr_demo` weights of the authors' notebook.
"""

from __future__ import annotations

from torch import nn

from detrscope.blocks.backbone import NormKind
from detrscope.blocks.decoder import LastStateDecoder
from detrscope.blocks.encoder import Encoder
from detrscope.blocks.heads import SetHeads
from detrscope.blocks.neck import SummedNeck
from detrscope.blocks.path import DetectionTransformer
from detrscope.blocks.position import LearnedPosition
from detrscope.blocks.queries import LearnedContent
from detrscope.config import config_section, setting, settings
from detrscope.families.family import Family, Published, Variant
from detrscope.families.keys.minimal import PUBLISHED
from detrscope.families.keys.shapes import Shapes
from detrscope.families.masks import MASK_HEAD_HELP, MaskHeadName, build_mask_head, mask_stages
from detrscope.families.settings import (
    BackboneConfig,
    LayersConfig,
    Queries,
    TrainableStages,
    Width,
    require_stacks,
)
from detrscope.families.stacks import decoder_layers, encoder_layers


@settings
class TrainedBackboneConfig(BackboneConfig):
    """Backbone of the paper's listing: a ResNet trained as a whole."""

    norm: NormKind = setting("trainable", "frozen or trainable batch norm")
    trainable_stages: TrainableStages = setting(
        5, "trained parts of stem and 4 stages, counted from the last; 5 is all"
    )


@settings
class MinimalConfig:
    """Settings of the family `minimal`."""

    width: Width = setting(256, "model width D")
    queries: Queries = setting(100, "number of object queries")
    positions: Width = setting(50, "number of learned rows and of columns")
    mask_head: MaskHeadName = setting("none", MASK_HEAD_HELP)
    backbone: TrainedBackboneConfig = config_section(TrainedBackboneConfig)
    encoder: LayersConfig = config_section(LayersConfig)
    decoder: LayersConfig = config_section(LayersConfig)

    def __post_init__(self) -> None:
        require_stacks(self.width, self.encoder, self.decoder, multiple=2)


def build(config: MinimalConfig, classes: int) -> DetectionTransformer:
    """Build the model with random weights; K = classes + 1."""
    d = config.width
    backbone = config.backbone.build(stages=mask_stages(config.mask_head, (4,)))
    return DetectionTransformer(
        backbone=backbone,
        neck=SummedNeck(backbone.channels[-1], d, LearnedPosition(d, config.positions)),
        encoder=Encoder(encoder_layers(d, config.encoder, "post"), nn.LayerNorm(d)),
        queries=LearnedContent(config.queries, d),
        decoder=LastStateDecoder(decoder_layers(d, config.decoder, "post"), nn.LayerNorm(d)),
        heads=SetHeads(nn.Linear(d, classes + 1), nn.Linear(d, 4)),
        scoring="softmax",
        mask_head=build_mask_head(config.mask_head, d, config.encoder.heads, 1, backbone.channels[:-1]),
    )


def infer_family_settings(shapes: Shapes) -> dict[str, object]:
    """Infer settings from a checkpoint's shapes."""
    return {
        "width": shapes.size("heads.class_head.weight", 1),
        "queries": shapes.size("queries.content", 0),
        "positions": shapes.size("neck.position.rows", 0),
        "backbone": {"name": shapes.resnet("backbone.body")},
        "encoder": shapes.stack("encoder"),
        "decoder": shapes.stack("decoder"),
    }


FAMILY = Family(
    name="minimal",
    config=MinimalConfig,
    build=build,
    infer=infer_family_settings,
    classes=Shapes.softmax_classes,
    layouts=(PUBLISHED,),
    query_count="queries",
    variants=(
        Variant(
            "minimal-r50",
            "the teaching model: learned positions, no auxiliary outputs",
            MinimalConfig(),
            published=Published("https://dl.fbaipublicfiles.com/detr/detr_demo-da2a99e9.pth", ap=None),
        ),
    ),
)
