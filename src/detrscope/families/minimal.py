"""The minimal DETR of the paper's listing: the teaching model of examples/minimal_detr.py, made of the house's blocks.

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
from detrscope.config import section, setting, settings
from detrscope.families.family import Family, Published, Variant
from detrscope.families.keys.key_map import TORCH_TRANSFORMER, KeyLayout, Shapes
from detrscope.families.settings import (
    MOST_QUERIES,
    WIDEST,
    BackboneConfig,
    LayersConfig,
    require_stacks,
)
from detrscope.families.stacks import dense_decoder_layers, dense_encoder_layers


@settings
class TrainedNorms(BackboneConfig):
    """The listing's backbone: a plain ResNet that learns whole."""

    norm: NormKind = setting("trainable", "frozen or trainable batch norm")
    trainable_stages: int = setting(
        5, "how many of stem and 4 stages learn, from the last; 5 is all", ge=0, le=5
    )


@settings
class MinimalConfig:
    """Settings of the family `minimal`."""

    width: int = setting(256, "model width D")
    queries: int = setting(100, "object queries", ge=1, le=MOST_QUERIES)
    positions: int = setting(50, "learned rows and columns", ge=1, le=WIDEST)
    backbone: TrainedNorms = section(TrainedNorms)
    encoder: LayersConfig = section(LayersConfig)
    decoder: LayersConfig = section(LayersConfig)

    def __post_init__(self) -> None:
        require_stacks(self.width, self.encoder, self.decoder, multiple=2)


def build(config: MinimalConfig, classes: int) -> DetectionTransformer:
    """The model with random weights; K = classes + 1."""
    d = config.width
    backbone = config.backbone.build(stages=(4,))
    return DetectionTransformer(
        backbone=backbone,
        neck=SummedNeck(backbone.channels[-1], d, LearnedPosition(d, config.positions)),
        encoder=Encoder(dense_encoder_layers(d, config.encoder, "post"), nn.LayerNorm(d)),
        queries=LearnedContent(config.queries, d),
        decoder=LastStateDecoder(dense_decoder_layers(d, config.decoder, "post"), nn.LayerNorm(d)),
        heads=SetHeads(nn.Linear(d, classes + 1), nn.Linear(d, 4)),
        scoring="softmax",
    )


def infer(shapes: Shapes) -> dict[str, object]:
    """The settings that a checkpoint's shapes tell."""
    return {
        "width": shapes.size("heads.class_head.weight", 1),
        "queries": shapes.size("queries.content", 0),
        "positions": shapes.size("neck.position.rows", 0),
        "backbone": {"name": shapes.resnet("backbone.body")},
        "encoder": shapes.stack("encoder"),
        "decoder": shapes.stack("decoder"),
    }


LAYOUT = KeyLayout(
    name="published",
    mark="linear_class.weight",
    rules=(
        (r"backbone\.(.*)", r"backbone.body.\1"),
        (r"conv\.(weight|bias)", r"neck.projection.\1"),
        (r"row_embed", r"neck.position.rows"),
        (r"col_embed", r"neck.position.columns"),
        (r"query_pos", r"queries.content"),
        (r"linear_class\.(.*)", r"heads.class_head.\1"),
        (r"linear_bbox\.(.*)", r"heads.box_head.\1"),
        *TORCH_TRANSFORMER,
    ),
)

FAMILY = Family(
    name="minimal",
    config=MinimalConfig,
    build=build,
    infer=infer,
    classes=Shapes.softmax_classes,
    layouts=(LAYOUT,),
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
