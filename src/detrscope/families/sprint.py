"""Sprint: small detection transformers that learn from scratch on a laptop's CPU in minutes.

What makes them fast learners, each from its paper: reference boxes refined by every layer (DAB-DETR, arXiv:2201.12329;
Deformable DETR, arXiv:2010.04159), conditional cross-attention that starts local (arXiv:2108.06152), two-stage queries,
denoising (DN-DETR, arXiv:2203.01305), a one-to-many head on the tokens in training (Group/H-DETR, arXiv:2207.13080),
and a loss that ties class scores to overlap (DEIM, arXiv:2412.04234).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field
from torch import nn

from detrscope.blocks.backbone import SlimBackbone
from detrscope.blocks.conditional_attention import ConditionalCrossAttention
from detrscope.blocks.decoder import RefiningDecoder, RefiningDecoderLayer
from detrscope.blocks.deformable_attention import DeformableCrossAttention
from detrscope.blocks.encoder import Encoder
from detrscope.blocks.heads import RefiningHeads
from detrscope.blocks.layers import MLP, Attention, FeedForward, PreNorm
from detrscope.blocks.neck import PyramidNeck
from detrscope.blocks.path import DetectionTransformer
from detrscope.blocks.queries import PRIOR_LOGIT, TwoStageQueries
from detrscope.config import require, section, setting, settings
from detrscope.core.preprocessing import Preprocessing
from detrscope.families.family import Family, Variant
from detrscope.families.keys.key_map import Shapes
from detrscope.families.settings import (
    MOST_HEADS,
    MOST_LAYERS,
    MOST_LEVELS,
    MOST_POINTS,
    MOST_QUERIES,
    WIDEST,
    LayersConfig,
    require_stacks,
)
from detrscope.families.stacks import dense_encoder_layers

START_SHARPNESS = 3.0

Width = Annotated[int, Field(ge=1, le=WIDEST)]
Depth = Annotated[int, Field(ge=1, le=MOST_LAYERS)]


@settings
class SlimConfig:
    """Image to maps."""

    stem: Width = setting(16, "channels of the stem, stride 2")
    widths: tuple[Width, ...] = setting(
        (32, 64, 128), "channels of the stages, strides 4, 8, 16 ...", min_length=1, max_length=MOST_LEVELS
    )
    depths: tuple[Depth, ...] = setting((1, 2, 2), "residual blocks of the stages")
    stages: tuple[int, ...] = setting((3,), "which stages give tokens")


@settings
class EncoderConfig(LayersConfig):
    """The encoder; it may have no layer at all."""

    layers: int = setting(1, "number of layers, 0 or more", ge=0, le=MOST_LAYERS)
    heads: int = setting(4, "attention heads", ge=1, le=MOST_HEADS)
    feedforward: int = setting(256, "hidden width of the feed-forward", ge=1, le=WIDEST)
    dropout: float = setting(0.0, "dropout in training", ge=0, lt=1)


@settings
class DecoderConfig(EncoderConfig):
    """The decoder."""

    layers: int = setting(3, "number of layers", ge=0, le=MOST_LAYERS)
    points: tuple[int, ...] = setting(
        (), "deformable cross-attention: sampling points of a head on each stage used; none for dense"
    )
    sharpness: float = setting(START_SHARPNESS, "dense cross-attention: how local it starts")


@settings
class SprintConfig:
    """Settings of the family `sprint`."""

    width: int = setting(128, "model width D")
    queries: int = setting(10, "object queries", ge=1, le=MOST_QUERIES)
    sizes: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = setting(
        (0.25,), "side of a proposed box at the start, 0..1, for each stage used"
    )
    backbone: SlimConfig = section(SlimConfig)
    encoder: EncoderConfig = section(EncoderConfig)
    decoder: DecoderConfig = section(DecoderConfig)

    def __post_init__(self) -> None:
        require_stacks(self.width, self.encoder, self.decoder, multiple=4 * self.decoder.heads)
        slim = self.backbone
        have = len(slim.widths)
        require(
            len(slim.depths) == have, "backbone.depths", slim.depths, f"one for each of the {have} widths"
        )
        ordered = list(slim.stages) == sorted(set(slim.stages)) and len(slim.stages) > 0
        fine = ordered and all(1 <= stage <= have for stage in slim.stages)
        require(fine, "backbone.stages", slim.stages, f"some of 1 to {have}, in order")
        require(len(self.sizes) == len(slim.stages), "sizes", self.sizes, "one for each of backbone.stages")
        self._check_cross(self.decoder)

    def _check_cross(self, decoder: DecoderConfig) -> None:
        points, name = decoder.points, "decoder.points"
        if points:
            require(len(points) == len(self.sizes), name, points, "none, or one for each of backbone.stages")
            fine = min(points) >= 0 and 0 < sum(points) <= MOST_POINTS
            require(fine, name, points, f"numbers of points, not all 0, {MOST_POINTS} in all at most")
            only_dense = "as it was, since decoder.points makes the cross-attention deformable"
            sharpness = decoder.sharpness
            require(sharpness == START_SHARPNESS, "decoder.sharpness", sharpness, only_dense)


def build(config: SprintConfig, classes: int) -> DetectionTransformer:
    """The model with random weights; K = classes. The twins differ in the cross-attention of their decoder only."""
    d, c = config.width, config.decoder
    backbone = SlimBackbone(
        config.backbone.stem, config.backbone.widths, config.backbone.depths, config.backbone.stages
    )
    layers = [
        RefiningDecoderLayer(
            Attention(d, c.heads, c.dropout, f"decoder.{i}.self"),
            _cross_attention(d, c, f"decoder.{i}.cross"),
            FeedForward(d, c.feedforward, c.dropout),
            (PreNorm(d, c.dropout), PreNorm(d, c.dropout), PreNorm(d, c.dropout)),
        )
        for i in range(c.layers)
    ]
    return DetectionTransformer(
        backbone=backbone,
        neck=PyramidNeck(backbone.channels, d),
        encoder=Encoder(dense_encoder_layers(d, config.encoder, "pre"), nn.LayerNorm(d)),
        queries=TwoStageQueries(config.queries, d, classes, config.sizes),
        decoder=RefiningDecoder(layers, nn.LayerNorm(d), MLP(2 * d, d, d)),
        heads=RefiningHeads(_class_head(d, classes), [_still(MLP(d, d, 4)) for _ in range(c.layers)]),
        scoring="sigmoid",
    )


def _cross_attention(width: int, config: DecoderConfig, site: str) -> nn.Module:
    if config.points:
        return DeformableCrossAttention(width, config.heads, config.points, site)
    return ConditionalCrossAttention(width, config.heads, site, config.sharpness)


def _class_head(width: int, classes: int) -> nn.Linear:
    head = nn.Linear(width, classes)
    nn.init.constant_(head.bias, PRIOR_LOGIT)
    return head


def _still(box_head: MLP) -> MLP:
    """A box head that moves nothing at the start."""
    nn.init.zeros_(box_head.last.weight)
    nn.init.zeros_(box_head.last.bias)
    return box_head


def infer(shapes: Shapes) -> dict[str, object]:
    """The settings that a checkpoint's shapes tell."""
    return {"width": shapes.size("heads.class_head.weight", 1), "queries": shapes.size("queries.content", 0)}


NANO = SprintConfig()
DEFORMABLE_NANO = SprintConfig(
    sizes=(0.1, 0.25),
    backbone=SlimConfig(stages=(2, 3)),
    encoder=EncoderConfig(layers=0),
    decoder=DecoderConfig(points=(4, 4)),
)
SMALL = SprintConfig(
    width=192,
    queries=60,
    backbone=SlimConfig(stem=24, widths=(48, 96, 192), depths=(1, 2, 2)),
    encoder=EncoderConfig(layers=2, heads=6, feedforward=384),
    decoder=DecoderConfig(layers=3, heads=6, feedforward=384),
)
DEFORMABLE_SMALL = replace(
    SMALL,
    sizes=(0.1, 0.25),
    backbone=replace(SMALL.backbone, stages=(2, 3)),
    encoder=replace(SMALL.encoder, layers=0),
    decoder=replace(SMALL.decoder, points=(4, 4)),
)

FAMILY = Family(
    name="sprint",
    config=SprintConfig,
    build=build,
    infer=infer,
    classes=lambda shapes: shapes.rows("heads.class_head.weight"),
    layouts=(),
    query_count="queries",
    variants=(
        Variant(
            "sprint-dense-n",
            "nano: learns from scratch on a CPU in minutes",
            NANO,
            shipped="sprint-dense-n-drawn-dogs.safetensors",
            preprocessing=Preprocessing(128, 128),
        ),
        Variant(
            "sprint-dense-s",
            "small: wider, for real images of a few hundred pixels",
            SMALL,
            preprocessing=Preprocessing(240, 320),
        ),
        Variant(
            "sprint-deformable-n",
            "nano, deformable cross-attention at strides 8 and 16",
            DEFORMABLE_NANO,
            preprocessing=Preprocessing(240, 320),
        ),
        Variant(
            "sprint-deformable-s",
            "small, deformable cross-attention at strides 8 and 16: the one to start with on your own images",
            DEFORMABLE_SMALL,
            preprocessing=Preprocessing(240, 320),
        ),
    ),
)
