"""LW-DETR: Chen et al. 2024, "LW-DETR: A Transformer Replacement to YOLO for Real-Time Detection", arXiv:2406.03459."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field
from torch import nn

from detrscope.blocks.attention import GroupSelfAttention, UnbiasedKeySelfAttention, WindowSelfAttention
from detrscope.blocks.decoder import SineBoxDecoder
from detrscope.blocks.deformable_attention import DeformableCrossAttention
from detrscope.blocks.encoder import Encoder, EncoderLayer
from detrscope.blocks.group_queries import GroupQueries, ProposalGroup
from detrscope.blocks.heads import ScaledSetHeads
from detrscope.blocks.layers import MLP, GeluFeedForward, ScaledPreNorm, prior_head, zero_last
from detrscope.blocks.path import DetectionTransformer
from detrscope.blocks.projector import ProjectorNeck, ScaleProjector
from detrscope.blocks.vit import ViTBackbone
from detrscope.config import config_section, require_config, setting, settings
from detrscope.core.preprocessing import Preprocessing
from detrscope.core.types import Windows
from detrscope.families.family import Family, OnHub, Variant
from detrscope.families.keys.lw_detr import LAYOUTS, LWDetrHubConfig, published_layers
from detrscope.families.keys.shapes import Shapes
from detrscope.families.masks import TOKEN_MASK_HEAD_HELP, TokenMaskHeadName, build_mask_head
from detrscope.families.settings import (
    MAX_LAYERS,
    MAX_POINTS,
    BoxLayers,
    Dropout,
    Heads,
    Layers,
    LayersConfig,
    Queries,
    Width,
)
from detrscope.families.stacks import decoder_layers

PRIOR = 0.01  # initial probability of a class
FACTOR = 0.1  # initial factor of what a backbone layer adds
PATCH = 16  # pixels

Numbers = tuple[Annotated[int, Field(ge=0, lt=MAX_LAYERS)], ...]
Scale = Annotated[float, Field(ge=0.5, le=2.0)]


@settings
class ViTConfig:
    """Backbone: a vision transformer, most of its layers within windows."""

    width: Width = setting(192, "width of the tokens")
    layers: Layers = setting(10, "number of layers")
    heads: Heads = setting(12, "attention heads")
    grid: Annotated[int, Field(ge=1, le=256)] = setting(
        14, "side of the learned grid of positions, in tokens; interpolated to the size of the image"
    )
    windows: Annotated[int, Field(ge=1, le=64)] = setting(4, "windows along each side of the map")
    window_layers: Numbers = setting((0, 1, 3, 6, 7, 9), "layers with attention within windows, from 0")
    maps: Numbers = setting((2, 4, 5, 9), "layers whose tokens go to the projector, from 0")
    drop_path: Dropout = setting(
        0.0, "probability in training that an image skips the last layer; earlier ones, in proportion"
    )

    def __post_init__(self) -> None:
        for name, numbers, least in (("window_layers", self.window_layers, 0), ("maps", self.maps, 1)):
            ordered = list(numbers) == sorted(set(numbers)) and len(numbers) >= least
            valid = ordered and all(number < self.layers for number in numbers)
            require_config(valid, name, list(numbers), f"some of 0 to {self.layers - 1}, in order")
        require_config(self.width % self.heads == 0, "heads", self.heads, f"a divisor of {self.width}")


@settings
class GroupDecoderConfig(LayersConfig):
    """Decoder with deformable cross-attention."""

    layers: Layers = setting(3, "number of layers")
    cross_heads: Heads = setting(16, "heads of the cross-attention")
    dropout: Dropout = setting(0.0, "dropout in training")
    points: Annotated[int, Field(ge=1, le=MAX_POINTS)] = setting(
        2, "sampling points of each head on each map"
    )


@settings
class LWDetrConfig:
    """Settings of the family `lw_detr`."""

    width: Width = setting(256, "model width D")
    queries: Queries = setting(300, "object queries")
    groups: Annotated[int, Field(ge=1, le=64)] = setting(13, "groups of queries in training")
    scales: tuple[Scale, ...] = setting(
        (1.0,), "maps for the decoder: 2, 1 or 0.5 times the size of the backbone's, finest first"
    )
    box_layers: BoxLayers = setting(3, "linear layers of the box heads")
    mask_head: TokenMaskHeadName = setting("none", TOKEN_MASK_HEAD_HELP)
    backbone: ViTConfig = config_section(ViTConfig)
    decoder: GroupDecoderConfig = config_section(GroupDecoderConfig)

    def __post_init__(self) -> None:
        decoder = self.decoder
        require_config(decoder.layers >= 1, "decoder.layers", decoder.layers, "1 or more")
        multiple = math.lcm(4, decoder.heads, decoder.cross_heads)
        require_config(self.width % multiple == 0, "width", self.width, f"a multiple of {multiple}")
        valid = self.scales in tuple((2.0, 1.0, 0.5)[a:b] for a in range(3) for b in range(a + 1, 4))
        valid = valid or self.scales == (2.0, 0.5)
        require_config(valid, "scales", list(self.scales), "some of 2, 1 and 0.5, in order")


def build(config: LWDetrConfig, classes: int) -> DetectionTransformer:
    """Build the model with random weights; K = classes, scored by sigmoids."""
    v = config.backbone
    backbone = ViTBackbone(vit_layers(v, UnbiasedKeySelfAttention, FACTOR), v.width, PATCH, v.grid, v.maps)
    neck = ProjectorNeck([ScaleProjector(backbone.channels, config.width, scale) for scale in config.scales])
    return build_group_detector(config, classes, backbone, neck)


def build_group_detector(
    config: LWDetrConfig, classes: int, backbone: ViTBackbone, neck: ProjectorNeck
) -> DetectionTransformer:
    """Build a model of a backbone and a neck, with queries in groups and LW-DETR's decoder."""
    d, c = config.width, config.decoder

    def self_attention(site: str) -> GroupSelfAttention:
        return GroupSelfAttention(d, c.heads, c.dropout, site, config.groups)

    def cross_attention(site: str) -> nn.Module:
        return DeformableCrossAttention(d, c.cross_heads, (c.points,) * len(config.scales), site)

    def box_head() -> MLP:
        return zero_last(MLP(*[d] * config.box_layers, 4))

    return DetectionTransformer(
        backbone=backbone,
        neck=neck,
        encoder=Encoder([], nn.Identity()),
        queries=GroupQueries(
            config.queries,
            d,
            [ProposalGroup(d, prior_head(d, classes, PRIOR), box_head()) for _ in range(config.groups)],
        ),
        decoder=SineBoxDecoder(
            decoder_layers(d, c, "post", cross_attention, self_attention=self_attention),
            nn.LayerNorm(d),
            MLP(2 * d, d, d),
        ),
        heads=ScaledSetHeads(prior_head(d, classes, PRIOR), box_head()),
        scoring="sigmoid",
        mask_head=build_mask_head(config.mask_head, d, c.heads, c.layers),
    )


def vit_layers(v: ViTConfig, attention: type[WindowSelfAttention], factor: float) -> list[EncoderLayer]:
    """Build the layers of a backbone, with the sites `backbone.N.self`.

    Args:
        v: settings of the backbone.
        attention: class of the attention, of all tokens or within windows.
        factor: initial factor of what a layer adds.
    """
    windows = Windows(v.windows, v.windows)
    rates = [v.drop_path * i / max(1, v.layers - 1) for i in range(v.layers)]  # of skipping a layer
    return [
        EncoderLayer(
            attention(v.width, v.heads, windows if i in v.window_layers else None, f"backbone.{i}.self"),
            GeluFeedForward(v.width, 4 * v.width, 0.0),
            (ScaledPreNorm(v.width, rate, factor), ScaledPreNorm(v.width, rate, factor)),
        )
        for i, rate in enumerate(rates)
    ]


def infer_family_settings(shapes: Shapes) -> dict[str, object]:
    """Infer settings from a checkpoint's shapes; heads, windows and maps, not visible in them, are as published."""
    layers, scales = shapes.count("backbone.layers"), _scales(shapes)
    return {
        **infer_group_settings(shapes),
        "scales": scales,
        "backbone": {
            "width": shapes.size("backbone.embedding.weight", 0),
            "layers": layers,
            "grid": shapes.size("backbone.position", 1),
            **published_layers(layers),
            "drop_path": 0.1 if len(scales) > 1 else 0.0,
        },
    }


def infer_group_settings(shapes: Shapes) -> dict[str, object]:
    """Infer the settings of queries, decoder and heads from a checkpoint's shapes; attention heads are as published."""
    width, groups = shapes.size("queries.content", 1), shapes.count("queries.groups")
    cross_heads = max(1, width // 16)
    rows = shapes.size("decoder.layers.0.cross_attention.weights.bias", 0)
    return {
        "width": width,
        "queries": shapes.size("queries.content", 0) // max(1, groups),
        "groups": groups,
        "box_layers": shapes.count("heads.box_head.layers"),
        "mask_head": "dot-product" if shapes.has("mask_head.bias") else "none",
        "decoder": {
            **shapes.stack("decoder"),
            "heads": max(1, width // 32),
            "cross_heads": cross_heads,
            "points": max(1, rows // (cross_heads * max(1, shapes.count("neck.scales")))),
        },
    }


def _scales(shapes: Shapes) -> tuple[float, ...]:
    """Return the scales of the projectors: a strided convolution is 0.5, a transposed one 2."""
    scales = []
    for number in range(shapes.count("neck.scales")):
        resize = f"neck.scales.{number}.resize.0"
        enlarged = shapes.has(f"{resize}.0.bias") or shapes.has(f"{resize}.1.bias")
        scales.append(2.0 if enlarged else 0.5 if shapes.has(f"{resize}.0.conv.weight") else 1.0)
    return tuple(scales)


def _variant(name: str, size: str, ap: float, config: LWDetrConfig) -> Variant:
    square = Preprocessing(fit="exact", box=(640, 640))
    maps = " and ".join(f"{PATCH / scale:g}" for scale in config.scales)
    return Variant(
        f"lwdetr-{name}",
        f"ViT of {config.backbone.layers} layers, width {config.backbone.width}, maps of stride {maps}",
        config,
        OnHub(f"AnnaZhang/lwdetr_{size}_60e_coco", ap),
        preprocessing=square,
    )


TINY = ViTConfig(layers=6, window_layers=(0, 2, 4), maps=(1, 3, 5))
TWO_MAPS = (2.0, 0.5)
WIDE_DECODER = GroupDecoderConfig(heads=12, cross_heads=24, points=4)


def _large(width: int) -> LWDetrConfig:
    backbone = ViTConfig(width=width, drop_path=0.1)
    return LWDetrConfig(width=384, scales=TWO_MAPS, backbone=backbone, decoder=WIDE_DECODER)


FAMILY = Family(
    name="lw_detr",
    config=LWDetrConfig,
    build=build,
    infer=infer_family_settings,
    classes=lambda shapes: shapes.rows("heads.class_head.weight"),
    layouts=LAYOUTS,
    query_count="queries",
    top=300,
    hub_configs={"lw_detr": LWDetrHubConfig},
    variants=(
        _variant("t", "tiny", 42.6, LWDetrConfig(queries=100, backbone=TINY)),
        _variant("s", "small", 48.0, LWDetrConfig()),
        _variant("m", "medium", 52.5, LWDetrConfig(backbone=ViTConfig(width=384))),
        _variant("l", "large", 56.1, _large(384)),
        _variant("x", "xlarge", 58.3, _large(768)),
    ),
)
