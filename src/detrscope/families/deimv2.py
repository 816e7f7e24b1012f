"""DEIMv2 (Huang et al. 2025, "Real-Time Object Detection Meets DINOv3", arXiv:2509.20787), the sizes with HGNetV2.

D-FINE's path, smaller: maps are added up, queries are tokens as they are, layers are gated and normalised otherwise.
transformers' model of this name differs: it projects the tokens, its heads have ReLU, and each layer has its own
positions; settings tell both apart.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from detrscope.blocks.decoder import DistributionDecoder, FirstPositionDecoder
from detrscope.blocks.deformable_attention import DirectCrossAttention
from detrscope.blocks.encoder import HybridEncoder
from detrscope.blocks.fusion import ConvNorm, LayerAggregation, PooledContext, SplitStageBlock, SummedFusion
from detrscope.blocks.heads import DistributionHeads
from detrscope.blocks.layers import (
    MLP,
    GatedFeedForward,
    GatedRmsNorm,
    GeluFeedForward,
    RmsPostNorm,
    SiluMLP,
    prior_head,
    zero_last,
)
from detrscope.blocks.neck import CoarserNeck, ConvNormNeck
from detrscope.blocks.path import DetectionTransformer
from detrscope.blocks.token_queries import DirectSelectedQueries, SelectedQueries
from detrscope.config import config_section, config_to_tree, require_config, setting, settings
from detrscope.core.preprocessing import Preprocessing
from detrscope.families.d_fine import (
    AggregationEncoderConfig,
    EdgesConfig,
    PointsDecoderConfig,
    infer_edges,
    infer_points,
)
from detrscope.families.family import Family, OnHub, Variant
from detrscope.families.keys.deimv2 import LAYOUTS, Deimv2HubConfig
from detrscope.families.keys.hgnet import hgnet_name
from detrscope.families.keys.shapes import Shapes
from detrscope.families.masks import TOKEN_MASK_HEAD_HELP, TokenMaskHeadName, build_mask_head
from detrscope.families.rt_detr import PRIOR
from detrscope.families.settings import (
    BackboneConfig,
    BoxLayers,
    Queries,
    Width,
    require_backbone_stages,
    require_points,
)
from detrscope.families.stacks import decoder_layers, encoder_layers


@settings
class Deimv2Config:
    """Settings of the family `deimv2`."""

    width: Width = setting(128, "width D of tokens and queries")
    queries: Queries = setting(300, "object queries")
    stages: tuple[int, ...] = setting(
        (3, 4), "backbone stages that give feature maps; of one, a coarser map is pooled"
    )
    box_layers: BoxLayers = setting(3, "linear layers of the box heads")
    box_heads: Literal["each layer", "shared"] = setting("each layer", "a box head for each layer, or one")
    activation: Literal["silu", "relu"] = setting("silu", "of box heads, quality heads and positions")
    positions: Literal["first", "each layer"] = setting(
        "first", "positions of queries: of the first layer's boxes"
    )
    proposals: Literal["tokens", "projected"] = setting(
        "tokens", "queries are tokens, or projections of them"
    )
    cross: Literal["gated", "summed"] = setting("gated", "how cross-attention is added to the queries")
    mask_head: TokenMaskHeadName = setting("none", TOKEN_MASK_HEAD_HELP)
    edges: EdgesConfig = config_section(EdgesConfig)
    backbone: BackboneConfig = config_section(BackboneConfig)
    encoder: AggregationEncoderConfig = config_section(AggregationEncoderConfig)
    decoder: PointsDecoderConfig = config_section(PointsDecoderConfig)

    def __post_init__(self) -> None:
        decoder, encoder = self.decoder, self.encoder
        require_config(decoder.layers >= 1, "decoder.layers", decoder.layers, "1 or more")
        multiple = math.lcm(4, decoder.heads, encoder.heads if encoder.layers else 1)
        require_config(self.width % multiple == 0, "width", self.width, f"a multiple of {multiple}")
        require_config(encoder.width == self.width, "encoder.width", encoder.width, f"the width {self.width}")
        require_backbone_stages("stages", self.stages, 4)
        maps = max(2, len(self.stages))
        require_points(decoder.points, maps, f"{maps} maps")


def build(config: Deimv2Config, classes: int) -> DetectionTransformer:
    """Build the model with random weights; K = classes, scored by sigmoids."""
    d, e, c, edges = config.width, config.encoder, config.decoder, config.edges
    backbone = config.backbone.build(stages=config.stages)
    mlp = {"silu": SiluMLP, "relu": MLP}[config.activation]
    neck = CoarserNeck if len(config.stages) == 1 else ConvNormNeck
    queries = {"tokens": DirectSelectedQueries, "projected": SelectedQueries}[config.proposals]
    decoder = {"first": FirstPositionDecoder, "each layer": DistributionDecoder}[config.positions]
    residual = {"gated": GatedRmsNorm, "summed": RmsPostNorm}[config.cross]

    def cross_attention(site: str) -> nn.Module:
        return DirectCrossAttention(d, c.heads, c.points, site)

    def box_head(outputs: int) -> MLP:
        return zero_last(mlp(*[d] * config.box_layers, outputs))

    def quality_head() -> MLP:
        return zero_last(mlp(4 * (edges.top + 1), *[edges.quality_width] * (edges.quality_layers - 1), 1))

    return DetectionTransformer(
        backbone=backbone,
        neck=neck(backbone.channels, d),
        encoder=HybridEncoder(
            encoder_layers(d, e, "post", feedforward=GeluFeedForward),
            _fusion(e, len(config.stages) - 1),
            [nn.Identity() for _ in c.points],
        ),
        queries=queries(config.queries, d, prior_head(d, classes, PRIOR), box_head(4)),
        decoder=decoder(
            decoder_layers(d, c, RmsPostNorm, cross_attention, residual, GatedFeedForward), mlp(4, d, d, d)
        ),
        heads=DistributionHeads(
            box_head(4),
            [box_head(4 * (edges.bins + 1)) for _ in range(1 if config.box_heads == "shared" else c.layers)],
            [prior_head(d, classes, PRIOR) for _ in range(c.layers)],
            [quality_head() for _ in range(c.layers)],
            edges.scale,
            edges.reach,
        ),
        scoring="sigmoid",
        mask_head=build_mask_head(config.mask_head, d, c.heads, c.layers),
    )


def _fusion(e: AggregationEncoderConfig, steps: int) -> SummedFusion:
    """Build the fusion of maps; without a step between maps of the backbone, that of a pooled map."""
    width, hidden = e.width, e.hidden

    def branch(channels: int) -> nn.Module:
        trailing = ConvNorm(hidden, hidden, 3, activation="silu")
        return nn.Sequential(SplitStageBlock(channels, hidden, e.blocks), trailing)

    def block() -> LayerAggregation:
        first = ConvNorm(width, 2 * width, activation="silu")
        last = ConvNorm(2 * (width + hidden), width, activation="silu")
        return LayerAggregation(first, [branch(width), branch(hidden)], last)

    if not steps:
        pooled = nn.Sequential(nn.AvgPool2d(3, 2, 1), ConvNorm(width, width, activation="silu"))
        return SummedFusion([PooledContext(width, width, activation="silu")], [block()], [pooled], [block()])
    return SummedFusion(
        laterals=[ConvNorm(width, width) for _ in range(steps)],
        down_blocks=[block() for _ in range(steps)],
        strided=[
            nn.Sequential(ConvNorm(width, width), ConvNorm(width, width, 3, 2, groups=width))
            for _ in range(steps)
        ],
        up_blocks=[block() for _ in range(steps)],
    )


def infer_family_settings(shapes: Shapes) -> dict[str, object]:
    """Infer settings from a checkpoint's shapes; the number of heads, and of queries, is not visible in them."""
    width = shapes.size("queries.class_head.weight", 1)
    branch = "encoder.fusion.down_blocks.0.branches.0.0"
    box_layers = shapes.count("heads.box_heads.0.layers")
    backbone = hgnet_name(shapes)
    maps = shapes.count("neck.projections")
    last = shapes.count("backbone.body.stages")
    layers = shapes.count("decoder.layers")
    encoder = {
        **shapes.stack("encoder"),
        "width": width,
        "hidden": shapes.size(f"{branch}.bottlenecks.0.conv1.conv.weight", 0),
        "blocks": shapes.count(f"{branch}.bottlenecks"),
    }
    return {
        "width": width,
        "queries": next((config.queries for config in (ATTO, FEMTO, PICO) if config.width == width), 300),
        "stages": tuple(range(last + 1 - maps, last + 1)),
        "box_layers": box_layers,
        "box_heads": "shared" if shapes.count("heads.box_heads") < layers else "each layer",
        "proposals": "projected" if shapes.has("queries.projection.weight") else "tokens",
        "cross": "gated" if shapes.has("decoder.layers.0.cross_residual.gate.weight") else "summed",
        "edges": infer_edges(shapes, box_layers - 1),
        "backbone": config_to_tree(_backbone(backbone)),
        "encoder": encoder,
        "decoder": {**shapes.stack("decoder"), "points": infer_points(shapes)},
    }


def _backbone(name: str) -> BackboneConfig:
    return BackboneConfig(name=name, norm="trainable", trainable_stages=5)


def _small(backbone: str, width: int, hidden: int, feedforward: int, queries: int) -> Deimv2Config:
    """Return a size with one map of the backbone."""
    return Deimv2Config(
        width=width,
        queries=queries,
        stages=(3,),
        box_heads="shared",
        cross="summed",
        backbone=_backbone(backbone),
        encoder=AggregationEncoderConfig(layers=0, width=width, hidden=hidden, blocks=2),
        decoder=PointsDecoderConfig(layers=3, feedforward=feedforward, points=(4, 2)),
    )


ATTO = _small("hgnetv2_atto", 64, 10, 80, 100)
FEMTO = _small("hgnetv2_femto", 96, 16, 128, 150)
PICO = _small("hgnetv2_pico", 112, 19, 160, 200)
N = Deimv2Config(
    backbone=_backbone("hgnetv2_b0"),
    encoder=AggregationEncoderConfig(width=128, feedforward=512, hidden=21, blocks=2),
    decoder=PointsDecoderConfig(layers=3, feedforward=256, points=(6, 6)),
)


def _variant(size: str, ap: float, config: Deimv2Config, side: int) -> Variant:
    strides = "one map at stride 16 and a pooled one" if len(config.stages) == 1 else "strides 16 and 32"
    return Variant(
        f"deimv2-{size}",
        f"{config.backbone.name}, {strides}, {config.decoder.layers} decoder layers",
        config,
        OnHub(f"Intellindust/DEIMv2_HGNetv2_{size.upper()}_COCO", ap),
        preprocessing=Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3, fit="exact", box=(side, side)),
    )


FAMILY = Family(
    name="deimv2",
    config=Deimv2Config,
    build=build,
    infer=infer_family_settings,
    classes=lambda shapes: shapes.rows("queries.class_head.weight"),
    layouts=LAYOUTS,
    query_count="queries",
    top=300,
    hub_configs={"deimv2": Deimv2HubConfig},
    variants=(
        _variant("atto", 23.8, ATTO, 320),
        _variant("femto", 31.0, FEMTO, 416),
        _variant("pico", 38.5, PICO, 640),
        _variant("n", 43.0, N, 640),
    ),
)
