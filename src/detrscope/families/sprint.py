"""Sprint: small detection transformers that learn from scratch on a laptop's CPU in minutes.

They combine, each from its paper: reference boxes refined by every layer (DAB-DETR, arXiv:2201.12329;
Deformable DETR, arXiv:2010.04159), conditional cross-attention that starts local (arXiv:2108.06152), two-stage queries,
denoising (DN-DETR, arXiv:2203.01305), a one-to-many head on the tokens in training (Group/H-DETR, arXiv:2207.13080),
and a loss that ties class scores to overlap (DEIM, arXiv:2412.04234).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Protocol

from pydantic import Field
from torch import nn

from detrscope.blocks.backbone import Backbone, SlimBackbone
from detrscope.blocks.conditional_attention import ConditionalCrossAttention
from detrscope.blocks.decoder import BoxPositionDecoder
from detrscope.blocks.deformable_attention import DeformableCrossAttention
from detrscope.blocks.encoder import Encoder
from detrscope.blocks.heads import RefiningHeads
from detrscope.blocks.layers import MLP, zero_last
from detrscope.blocks.neck import PyramidNeck
from detrscope.blocks.path import DetectionTransformer
from detrscope.blocks.queries import PRIOR_LOGIT
from detrscope.blocks.token_queries import MixedQueries
from detrscope.config import config_section, require_config, setting, settings
from detrscope.core.preprocessing import Preprocessing
from detrscope.families.family import Family, Variant
from detrscope.families.keys.shapes import Shapes
from detrscope.families.masks import MASK_HEAD_HELP, MaskHeadName, build_mask_head, mask_stages
from detrscope.families.settings import (
    MAX_LAYERS,
    MAX_LEVELS,
    MAX_POINTS,
    Dropout,
    Heads,
    Layers,
    LayersConfig,
    Queries,
    Width,
    require_backbone_stages,
    require_stacks,
)
from detrscope.families.stacks import decoder_layers, encoder_layers

START_SHARPNESS = 3.0


@settings
class SlimConfig:
    """Backbone: image to feature maps."""

    stem: Width = setting(16, "channels of the stem, stride 2")
    widths: tuple[Width, ...] = setting(
        (32, 64, 128), "channels of the stages, strides 4, 8, 16 ...", min_length=1, max_length=MAX_LEVELS
    )
    depths: tuple[Annotated[int, Field(ge=1, le=MAX_LAYERS)], ...] = setting(
        (1, 2, 2), "residual blocks of the stages"
    )
    stages: tuple[int, ...] = setting((3,), "stages that give tokens")


@settings
class EncoderConfig(LayersConfig):
    """Encoder; it may have no layer."""

    layers: Layers = setting(1, "number of layers, 0 or more")
    heads: Heads = setting(4, "attention heads")
    feedforward: Width = setting(256, "hidden width of the feed-forward")
    dropout: Dropout = setting(0.0, "dropout in training")


@settings
class DecoderConfig(EncoderConfig):
    """Decoder."""

    layers: Layers = setting(3, "number of layers")
    points: tuple[int, ...] = setting(
        (), "deformable cross-attention: sampling points of a head on each stage used; none for dense"
    )
    sharpness: float = setting(START_SHARPNESS, "dense cross-attention: how local it starts")


@settings
class SprintConfig:
    """Settings of the family `sprint`."""

    width: Width = setting(128, "model width D")
    queries: Queries = setting(10, "number of object queries")
    sizes: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = setting(
        (0.25,), "side of a proposed box at the start, 0..1, for each stage used"
    )
    mask_head: MaskHeadName = setting("none", MASK_HEAD_HELP)
    backbone: SlimConfig = config_section(SlimConfig)
    encoder: EncoderConfig = config_section(EncoderConfig)
    decoder: DecoderConfig = config_section(DecoderConfig)

    def __post_init__(self) -> None:
        slim = self.backbone
        count = len(slim.widths)
        one_each = f"one for each of the {count} widths"
        require_config(len(slim.depths) == count, "backbone.depths", slim.depths, one_each)
        require_backbone_stages("backbone.stages", slim.stages, count)
        require_sprint(self, len(slim.stages))


class SprintSettings(Protocol):
    """Settings of a sprint that do not depend on its backbone."""

    @property
    def width(self) -> int:
        """Model width D."""
        ...

    @property
    def queries(self) -> int:
        """Number of object queries."""
        ...

    @property
    def sizes(self) -> tuple[float, ...]:
        """Sides of proposed boxes, one for each map."""
        ...

    @property
    def mask_head(self) -> MaskHeadName:
        """The mask head."""
        ...

    @property
    def encoder(self) -> EncoderConfig:
        """The encoder's settings."""
        ...

    @property
    def decoder(self) -> DecoderConfig:
        """The decoder's settings."""
        ...


def require_sprint(config: SprintSettings, maps: int) -> None:
    """Raise unless the settings fit one another and the number of maps that the backbone gives."""
    decoder = config.decoder
    require_stacks(config.width, config.encoder, decoder, multiple=4 * decoder.heads)
    require_config(len(config.sizes) == maps, "sizes", config.sizes, "one for each of backbone.stages")
    points, name = decoder.points, "decoder.points"
    if points:
        require_config(len(points) == maps, name, points, "none, or one for each of backbone.stages")
        valid = min(points) >= 0 and 0 < sum(points) <= MAX_POINTS
        require_config(valid, name, points, f"numbers of points, not all 0, {MAX_POINTS} in all at most")
        default = f"{START_SHARPNESS}, the default: decoder.points makes the cross-attention deformable"
        sharpness = decoder.sharpness
        require_config(sharpness == START_SHARPNESS, "decoder.sharpness", sharpness, default)


def build(config: SprintConfig, classes: int) -> DetectionTransformer:
    """Build the model with random weights; K = classes. Dense and deformable differ in the cross-attention only."""
    slim = config.backbone
    stages = mask_stages(config.mask_head, slim.stages)
    return build_sprint(SlimBackbone(slim.stem, slim.widths, slim.depths, stages), config, classes)


def build_sprint(backbone: Backbone, config: SprintSettings, classes: int) -> DetectionTransformer:
    """Build a sprint on a backbone, with random weights; maps in front of those of `sizes` are the mask head's."""
    d, c = config.width, config.decoder
    finer = len(backbone.channels) - len(config.sizes)

    def cross_attention(site: str) -> nn.Module:
        if c.points:
            return DeformableCrossAttention(d, c.heads, c.points, site)
        return ConditionalCrossAttention(d, c.heads, site, c.sharpness)

    layers = decoder_layers(d, c, "pre", cross_attention)
    return DetectionTransformer(
        backbone=backbone,
        neck=PyramidNeck(backbone.channels[finer:], d),
        encoder=Encoder(encoder_layers(d, config.encoder, "pre"), nn.LayerNorm(d)),
        queries=MixedQueries(config.queries, d, classes, config.sizes),
        decoder=BoxPositionDecoder(layers, nn.LayerNorm(d), MLP(2 * d, d, d)),
        heads=RefiningHeads(_class_head(d, classes), [zero_last(MLP(d, d, 4)) for _ in range(c.layers)]),
        scoring="sigmoid",
        mask_head=build_mask_head(
            config.mask_head, d, config.encoder.heads, c.layers, backbone.channels[:finer]
        ),
    )


def _class_head(width: int, classes: int) -> nn.Linear:
    head = nn.Linear(width, classes)
    nn.init.constant_(head.bias, PRIOR_LOGIT)
    return head


def infer_family_settings(shapes: Shapes) -> dict[str, object]:
    """Infer settings from a checkpoint's shapes."""
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
    infer=infer_family_settings,
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
