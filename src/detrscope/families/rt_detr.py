"""RT-DETR, and RT-DETRv2 of the same architecture.

Zhao et al. 2023, "DETRs Beat YOLOs on Real-time Object Detection", arXiv:2304.08069; Lv et al. 2024, arXiv:2407.17140.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from detrscope.blocks.backbone import NormKind
from detrscope.blocks.decoder import BoxMLPDecoder
from detrscope.blocks.deformable_attention import DeformableCrossAttention, DiscreteCrossAttention
from detrscope.blocks.encoder import HybridEncoder
from detrscope.blocks.fusion import ConvNorm, CrossStageBlock, PyramidFusion
from detrscope.blocks.heads import ForwardTwiceHeads
from detrscope.blocks.layers import MLP, GeluFeedForward, prior_head, zero_last
from detrscope.blocks.neck import ConvNormNeck
from detrscope.blocks.path import DetectionTransformer
from detrscope.blocks.token_queries import SelectedQueries
from detrscope.config import config_section, config_to_tree, setting, settings
from detrscope.core.preprocessing import Preprocessing
from detrscope.families.family import Family, OnHub, Variant
from detrscope.families.keys.rt_detr import LAYOUTS, RTDetrHubConfig
from detrscope.families.keys.shapes import Shapes
from detrscope.families.masks import TOKEN_MASK_HEAD_HELP, TokenMaskHeadName, build_mask_head
from detrscope.families.settings import (
    MAX_POINTS,
    BackboneConfig,
    BoxLayers,
    Dropout,
    Layers,
    LayersConfig,
    Queries,
    Width,
    require_hybrid,
    require_points,
)
from detrscope.families.stacks import decoder_layers, encoder_layers

PRIOR = 0.01  # initial probability of a class

Sampling = Literal["bilinear", "discrete"]


@settings
class HybridEncoderConfig(LayersConfig):
    """Self-attention of the coarsest map, then fusion of the maps."""

    layers: Layers = setting(1, "number of layers of self-attention")
    width: Width = setting(256, "channels of the maps in the encoder")
    hidden: Width = setting(256, "channels inside the blocks that fuse maps")
    feedforward: Width = setting(1024, "hidden width of the feed-forward")
    dropout: Dropout = setting(0.0, "dropout in training")


@settings
class SamplingDecoderConfig(LayersConfig):
    """Decoder with deformable cross-attention."""

    feedforward: Width = setting(1024, "hidden width of the feed-forward")
    dropout: Dropout = setting(0.0, "dropout in training")
    points: tuple[Annotated[int, Field(ge=0, le=MAX_POINTS)], ...] = setting(
        (4, 4, 4), "sampling points of each head on each map, finest first"
    )
    sampling: Sampling = setting(
        "bilinear", "bilinear at the points, or discrete: at the centres of tokens (v2)"
    )


@settings
class RTDetrConfig:
    """Settings of the family `rt_detr`."""

    width: Width = setting(256, "width D of tokens and queries in the decoder")
    queries: Queries = setting(300, "object queries")
    stages: tuple[int, ...] = setting(
        (2, 3, 4), "backbone stages that give feature maps (strides 4, 8, 16, 32)"
    )
    box_layers: BoxLayers = setting(3, "linear layers of the box heads")
    mask_head: TokenMaskHeadName = setting("none", TOKEN_MASK_HEAD_HELP)
    backbone: BackboneConfig = config_section(BackboneConfig)
    encoder: HybridEncoderConfig = config_section(HybridEncoderConfig)
    decoder: SamplingDecoderConfig = config_section(SamplingDecoderConfig)

    def __post_init__(self) -> None:
        require_hybrid(self.width, self.encoder, self.encoder.width, self.decoder, self.stages)
        require_points(self.decoder.points, len(self.stages), "stages")


def build(config: RTDetrConfig, classes: int) -> DetectionTransformer:
    """Build the model with random weights; K = classes, scored by sigmoids."""
    d, e, c = config.width, config.encoder, config.decoder
    backbone = config.backbone.build(stages=config.stages)
    attention = {"bilinear": DeformableCrossAttention, "discrete": DiscreteCrossAttention}[c.sampling]

    def cross_attention(site: str) -> nn.Module:
        return attention(d, c.heads, c.points, site)

    def box_head() -> MLP:
        return zero_last(MLP(*[d] * config.box_layers, 4))

    return DetectionTransformer(
        backbone=backbone,
        neck=ConvNormNeck(backbone.channels, e.width),
        encoder=HybridEncoder(
            encoder_layers(e.width, e, "post", feedforward=GeluFeedForward),
            _fusion(e, len(config.stages) - 1),
            [ConvNorm(e.width, d) for _ in config.stages],
        ),
        queries=SelectedQueries(config.queries, d, prior_head(d, classes, PRIOR), box_head()),
        decoder=BoxMLPDecoder(decoder_layers(d, c, "post", cross_attention), nn.Identity(), MLP(4, 2 * d, d)),
        heads=ForwardTwiceHeads(
            [prior_head(d, classes, PRIOR) for _ in range(c.layers)], [box_head() for _ in range(c.layers)]
        ),
        scoring="sigmoid",
        mask_head=build_mask_head(config.mask_head, d, c.heads, c.layers),
    )


def _fusion(e: HybridEncoderConfig, steps: int) -> PyramidFusion:
    return PyramidFusion(
        laterals=[ConvNorm(e.width, e.width, activation="silu") for _ in range(steps)],
        down_blocks=[CrossStageBlock(2 * e.width, e.width, e.hidden) for _ in range(steps)],
        strided=[ConvNorm(e.width, e.width, 3, 2, "silu") for _ in range(steps)],
        up_blocks=[CrossStageBlock(2 * e.width, e.width, e.hidden) for _ in range(steps)],
    )


def infer_family_settings(shapes: Shapes) -> dict[str, object]:
    """Infer settings from a checkpoint's shapes; heads, and how points are sampled, are not visible in them."""
    levels = shapes.count("neck.projections")
    points = shapes.size("decoder.layers.0.cross_attention.weights.bias", 0) // 8
    width = shapes.size("neck.projections.0.conv.weight", 0)
    encoder = {
        **shapes.stack("encoder"),
        "width": width,
        "hidden": shapes.size("encoder.fusion.up_blocks.0.conv1.conv.weight", 0),
    }
    return {
        "width": shapes.size("queries.class_head.weight", 1),
        "stages": tuple(range(5 - levels, 5)),
        "box_layers": shapes.count("heads.box_heads.0.layers"),
        "backbone": config_to_tree(_backbone(f"{shapes.resnet('backbone.body')}d")),
        "encoder": encoder,
        "decoder": {**shapes.stack("decoder"), "points": (points // levels,) * levels},
    }


def _variants(name: str, repository: str, rows: dict[str, tuple[RTDetrConfig, float]]) -> tuple[Variant, ...]:
    """Return the variants of a release, from its configs and published AP by backbone."""
    square = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), fit="exact", box=(640, 640))
    return tuple(
        Variant(
            f"{name}-{size}",
            f"{config.backbone.name}, strides 8 to 32, {config.decoder.layers} decoder layers",
            config,
            OnHub(repository.format(size.replace("-m", "vd_m") if size.endswith("-m") else f"{size}vd"), ap),
            preprocessing=square,
        )
        for size, (config, ap) in rows.items()
    )


def _backbone(name: str) -> BackboneConfig:
    """Return a backbone as the published recipes train it: large ones keep their stem and norms."""
    learns = name in ("resnet18d", "resnet34d")
    norm: NormKind = "trainable" if learns else "frozen"
    return BackboneConfig(name=name, norm=norm, trainable_stages=5 if learns else 4)


def _config(
    backbone: str, layers: int = 6, width: int = 256, hidden: int = 256, feedforward: int = 1024
) -> RTDetrConfig:
    return RTDetrConfig(
        backbone=_backbone(backbone),
        encoder=HybridEncoderConfig(width=width, hidden=hidden, feedforward=feedforward),
        decoder=SamplingDecoderConfig(layers=layers),
    )


R18, R34, R50 = _config("resnet18d", 3, hidden=128), _config("resnet34d", 4, hidden=128), _config("resnet50d")
R50_M, R101 = _config("resnet50d", hidden=128), _config("resnet101d", width=384, hidden=384, feedforward=2048)

FAMILY = Family(
    name="rt_detr",
    config=RTDetrConfig,
    build=build,
    infer=infer_family_settings,
    classes=lambda shapes: shapes.rows("queries.class_head.weight"),
    layouts=LAYOUTS,
    query_count="queries",
    top=300,
    hub_configs={"rt_detr": RTDetrHubConfig, "rt_detr_v2": RTDetrHubConfig},
    variants=(
        *_variants(
            "rtdetr",
            "PekingU/rtdetr_{}",
            {"r18": (R18, 46.5), "r34": (R34, 48.9), "r50": (R50, 53.1), "r101": (R101, 54.3)},
        ),
        *_variants(
            "rtdetrv2",
            "PekingU/rtdetr_v2_{}",
            {"r18": (R18, 48.1), "r34": (R34, 49.9), "r50": (R50, 53.4), "r101": (R101, 54.3)},
        ),
    ),
)
