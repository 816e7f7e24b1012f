"""D-FINE (Peng et al. 2024, "D-FINE: Redefine Regression Task in DETRs as Fine-grained Distribution Refinement").

arXiv:2410.13842. RT-DETR's path with HGNetV2, other fusing blocks, gates, and edges of boxes as distributions.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from detrscope.blocks.backbone import NormKind
from detrscope.blocks.decoder import DistributionDecoder
from detrscope.blocks.deformable_attention import DirectCrossAttention
from detrscope.blocks.encoder import HybridEncoder
from detrscope.blocks.fusion import ConvNorm, CrossStageBlock, LayerAggregation, PyramidFusion
from detrscope.blocks.heads import DistributionHeads
from detrscope.blocks.layers import MLP, GatedNorm, GeluFeedForward, prior_head, zero_last
from detrscope.blocks.neck import ConvNormNeck
from detrscope.blocks.path import DetectionTransformer
from detrscope.blocks.token_queries import SelectedQueries
from detrscope.config import config_section, config_to_tree, require_config, setting, settings
from detrscope.core.preprocessing import Preprocessing
from detrscope.families.family import Family, OnHub, Variant
from detrscope.families.keys.d_fine import LAYOUTS, DistributionConfig
from detrscope.families.keys.hgnet import hgnet_name
from detrscope.families.keys.shapes import Shapes
from detrscope.families.masks import TOKEN_MASK_HEAD_HELP, TokenMaskHeadName, build_mask_head
from detrscope.families.rt_detr import PRIOR, HybridEncoderConfig
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

MAX_BINS = 1024


@settings
class AggregationEncoderConfig(HybridEncoderConfig):
    """Self-attention of the coarsest map, then fusion of the maps."""

    hidden: Width = setting(128, "channels inside the branches of the blocks that fuse maps")
    blocks: Layers = setting(3, "RepVGG blocks in each branch")


@settings
class PointsDecoderConfig(LayersConfig):
    """Decoder with deformable cross-attention."""

    feedforward: Width = setting(1024, "hidden width of the feed-forward")
    dropout: Dropout = setting(0.0, "dropout in training")
    points: tuple[Annotated[int, Field(ge=0, le=MAX_POINTS)], ...] = setting(
        (3, 6, 3), "sampling points of each head on each map, finest first"
    )


@settings
class EdgesConfig:
    """Distributions of the edges of boxes, and the estimate of their quality."""

    bins: Annotated[int, Field(ge=4, le=MAX_BINS, multiple_of=2)] = setting(
        32, "steps of an edge, and one more for none"
    )
    scale: Annotated[float, Field(gt=0)] = setting(4.0, "units of a step in a side of the start box")
    reach: Annotated[float, Field(gt=0)] = setting(0.5, "half the largest step, in sides")
    top: Annotated[int, Field(ge=1)] = setting(4, "highest probabilities of an edge that tell the quality")
    quality_width: Width = setting(64, "hidden width of the quality heads")
    quality_layers: BoxLayers = setting(2, "linear layers of the quality heads")


@settings
class DFineConfig:
    """Settings of the family `d_fine`."""

    width: Width = setting(256, "width D of tokens and queries in the decoder")
    queries: Queries = setting(300, "object queries")
    stages: tuple[int, ...] = setting(
        (2, 3, 4), "backbone stages that give feature maps (strides 4, 8, 16, 32)"
    )
    box_layers: BoxLayers = setting(3, "linear layers of the box heads")
    mask_head: TokenMaskHeadName = setting("none", TOKEN_MASK_HEAD_HELP)
    edges: EdgesConfig = config_section(EdgesConfig)
    backbone: BackboneConfig = config_section(BackboneConfig)
    encoder: AggregationEncoderConfig = config_section(AggregationEncoderConfig)
    decoder: PointsDecoderConfig = config_section(PointsDecoderConfig)

    def __post_init__(self) -> None:
        require_hybrid(self.width, self.encoder, self.encoder.width, self.decoder, self.stages)
        require_points(self.decoder.points, len(self.stages), "stages")
        require_config(self.edges.top <= self.edges.bins, "edges.top", self.edges.top, "edges.bins or less")


def build(config: DFineConfig, classes: int) -> DetectionTransformer:
    """Build the model with random weights; K = classes, scored by sigmoids."""
    d, e, c = config.width, config.encoder, config.decoder
    backbone = config.backbone.build(stages=config.stages)

    def cross_attention(site: str) -> nn.Module:
        return DirectCrossAttention(d, c.heads, c.points, site)

    def output() -> nn.Module:
        return nn.Identity() if e.width == d else ConvNorm(e.width, d)

    return DetectionTransformer(
        backbone=backbone,
        neck=ConvNormNeck(backbone.channels, e.width),
        encoder=HybridEncoder(
            encoder_layers(e.width, e, "post", feedforward=GeluFeedForward),
            _fusion(e, len(config.stages) - 1),
            [output() for _ in config.stages],
        ),
        queries=SelectedQueries(config.queries, d, prior_head(d, classes, PRIOR), box_head(config, 4)),
        decoder=DistributionDecoder(
            decoder_layers(d, c, "post", cross_attention, GatedNorm), MLP(4, 2 * d, d)
        ),
        heads=DistributionHeads(
            box_head(config, 4),
            [box_head(config, 4 * (config.edges.bins + 1)) for _ in range(c.layers)],
            [prior_head(d, classes, PRIOR) for _ in range(c.layers)],
            [quality_head(config.edges) for _ in range(c.layers)],
            config.edges.scale,
            config.edges.reach,
        ),
        scoring="sigmoid",
        mask_head=build_mask_head(config.mask_head, d, c.heads, c.layers),
    )


def box_head(config: DFineConfig, outputs: int) -> MLP:
    """Build a box head of the family's depth that moves nothing at the start of training."""
    return zero_last(MLP(*[config.width] * config.box_layers, outputs))


def quality_head(edges: EdgesConfig) -> MLP:
    """Build a head that adds nothing to class logits at the start of training."""
    return zero_last(MLP(4 * (edges.top + 1), *[edges.quality_width] * (edges.quality_layers - 1), 1))


def _fusion(e: AggregationEncoderConfig, steps: int) -> PyramidFusion:
    width, hidden = e.width, e.hidden

    def branch(channels: int) -> nn.Module:
        return nn.Sequential(
            CrossStageBlock(channels, hidden, hidden, e.blocks),
            ConvNorm(hidden, hidden, 3, activation="silu"),
        )

    def block() -> LayerAggregation:
        first = ConvNorm(2 * width, 2 * width, activation="silu")
        last = ConvNorm(2 * (width + hidden), width, activation="silu")
        return LayerAggregation(first, [branch(width), branch(hidden)], last)

    return PyramidFusion(
        laterals=[ConvNorm(width, width) for _ in range(steps)],
        down_blocks=[block() for _ in range(steps)],
        strided=[
            nn.Sequential(ConvNorm(width, width), ConvNorm(width, width, 3, 2, groups=width))
            for _ in range(steps)
        ],
        up_blocks=[block() for _ in range(steps)],
    )


def infer_edges(shapes: Shapes, last: int) -> dict[str, object]:
    """Infer the settings of the distributions; `last` is the index of a box head's last layer."""
    quality = "heads.quality_heads.0.layers"
    layers = shapes.count(quality)
    return {
        "bins": shapes.size(f"heads.box_heads.0.layers.{last}.weight", 0) // 4 - 1,
        "scale": shapes.numbers("heads.scale")[0],
        "reach": shapes.numbers("heads.reach")[0],
        "top": shapes.size(f"{quality}.0.weight", 1) // 4 - 1,
        "quality_width": shapes.size(f"{quality}.0.weight", 0) if layers > 1 else 64,
        "quality_layers": layers,
    }


def infer_points(shapes: Shapes) -> tuple[int, ...]:
    """Read the sampling points on each map: each point has one over their number on its map."""
    shares = shapes.numbers("decoder.layers.0.cross_attention.point_shares")
    points: list[int] = []
    while (done := sum(points)) < len(shares):
        points.append(max(1, round(1 / shares[done])) if shares[done] > 0 else 1)
    return tuple(points)


def infer_family_settings(shapes: Shapes) -> dict[str, object]:
    """Infer settings from a checkpoint's shapes; the number of heads is not visible in them."""
    levels = shapes.count("neck.projections")
    branch = "encoder.fusion.down_blocks.0.branches.0.0"
    box_layers = shapes.count("heads.box_heads.0.layers")
    encoder = {
        **shapes.stack("encoder"),
        "width": shapes.size("neck.projections.0.conv.weight", 0),
        "hidden": shapes.size(f"{branch}.conv1.conv.weight", 0),
        "blocks": shapes.count(f"{branch}.bottlenecks"),
    }
    return {
        "width": shapes.size("queries.class_head.weight", 1),
        "stages": tuple(range(5 - levels, 5)),
        "box_layers": box_layers,
        "edges": infer_edges(shapes, box_layers - 1),
        "backbone": config_to_tree(_backbone(hgnet_name(shapes))),
        "encoder": encoder,
        "decoder": {**shapes.stack("decoder"), "points": infer_points(shapes)},
    }


def _backbone(name: str) -> BackboneConfig:
    """Return a backbone as the published recipes train it: large ones keep their stem and norms."""
    is_large = name in ("hgnetv2_b4", "hgnetv2_b5")
    norm: NormKind = "frozen" if is_large else "trainable"
    return BackboneConfig(name=name, norm=norm, trainable_stages=4 if is_large else 5)


def _variant(size: str, repository: str, ap: float, config: DFineConfig) -> Variant:
    strides = "16 and 32" if len(config.stages) == 2 else "8 to 32"
    return Variant(
        f"dfine-{size}",
        f"{config.backbone.name}, strides {strides}, {config.decoder.layers} decoder layers",
        config,
        OnHub(f"ustc-community/dfine-{repository}-coco", ap),
        preprocessing=SQUARE,
    )


SQUARE = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), fit="exact", box=(640, 640))

N = DFineConfig(
    width=128,
    stages=(3, 4),
    backbone=_backbone("hgnetv2_b0"),
    encoder=AggregationEncoderConfig(width=128, feedforward=512, hidden=21, blocks=2),
    decoder=PointsDecoderConfig(layers=3, feedforward=512, points=(6, 6)),
)
S = DFineConfig(
    backbone=_backbone("hgnetv2_b0"),
    encoder=AggregationEncoderConfig(hidden=64, blocks=1),
    decoder=PointsDecoderConfig(layers=3),
)
M = DFineConfig(
    backbone=_backbone("hgnetv2_b2"),
    encoder=AggregationEncoderConfig(blocks=2),
    decoder=PointsDecoderConfig(layers=4),
)
L = DFineConfig(backbone=_backbone("hgnetv2_b4"))
X = DFineConfig(
    edges=EdgesConfig(scale=8.0),
    backbone=_backbone("hgnetv2_b5"),
    encoder=AggregationEncoderConfig(width=384, feedforward=2048, hidden=192),
)

FAMILY = Family(
    name="d_fine",
    config=DFineConfig,
    build=build,
    infer=infer_family_settings,
    classes=lambda shapes: shapes.rows("queries.class_head.weight"),
    layouts=LAYOUTS,
    query_count="queries",
    top=300,
    hub_configs={"d_fine": DistributionConfig},
    variants=(
        _variant("n", "nano", 42.8, N),
        _variant("s", "small", 48.5, S),
        _variant("m", "medium", 52.3, M),
        _variant("l", "large", 54.0, L),
        _variant("x", "xlarge", 55.8, X),
    ),
)
