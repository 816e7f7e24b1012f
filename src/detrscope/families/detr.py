"""DETR: Carion et al. 2020, "End-to-End Object Detection with Transformers", arXiv:2005.12872."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import nn

from detrscope.blocks.decoder import Decoder
from detrscope.blocks.encoder import Encoder
from detrscope.blocks.heads import SetHeads
from detrscope.blocks.layers import MLP
from detrscope.blocks.neck import ProjectionNeck
from detrscope.blocks.path import DetectionTransformer
from detrscope.blocks.position import LearnedPosition, SinePosition
from detrscope.blocks.queries import LearnedQueries
from detrscope.config import config_section, setting, settings
from detrscope.families.family import Family, Published, Variant
from detrscope.families.keys.detr import LAYOUTS
from detrscope.families.keys.shapes import Shapes
from detrscope.families.masks import MASK_HEAD_HELP, MaskHeadName, build_mask_head, mask_stages
from detrscope.families.settings import (
    BackboneConfig,
    BoxLayers,
    LayersConfig,
    NormPosition,
    Queries,
    Width,
    require_stacks,
)
from detrscope.families.stacks import decoder_layers, encoder_layers

POSITIONS: dict[str, type[SinePosition] | type[LearnedPosition]] = {
    "sine": SinePosition,
    "learned": LearnedPosition,
}


@settings
class DetrConfig:
    """Settings of the family `detr`."""

    width: Width = setting(256, "model width D")
    queries: Queries = setting(100, "number of object queries")
    position: Literal["sine", "learned"] = setting("sine", "positional encoding of the tokens")
    norm: NormPosition = setting("post", "norm after (post) or before (pre) each sublayer")
    box_layers: BoxLayers = setting(3, "number of linear layers of the box head")
    mask_head: MaskHeadName = setting("none", MASK_HEAD_HELP)
    backbone: BackboneConfig = config_section(BackboneConfig)
    encoder: LayersConfig = config_section(LayersConfig)
    decoder: LayersConfig = config_section(LayersConfig)

    def __post_init__(self) -> None:
        require_stacks(self.width, self.encoder, self.decoder, multiple=4)


def build(config: DetrConfig, classes: int) -> DetectionTransformer:
    """Build the model with random weights; K = classes + 1, the last logit is "no object"."""
    d = config.width
    backbone = config.backbone.build(stages=mask_stages(config.mask_head, (4,)))
    return DetectionTransformer(
        backbone=backbone,
        neck=ProjectionNeck(backbone.channels[-1], d, POSITIONS[config.position](d)),
        encoder=Encoder(
            encoder_layers(d, config.encoder, config.norm),
            nn.LayerNorm(d) if config.norm == "pre" else nn.Identity(),
        ),
        queries=LearnedQueries(config.queries, d),
        decoder=Decoder(decoder_layers(d, config.decoder, config.norm), nn.LayerNorm(d)),
        heads=SetHeads(nn.Linear(d, classes + 1), MLP(*[d] * config.box_layers, 4)),
        scoring="softmax",
        mask_head=build_mask_head(
            config.mask_head, d, config.encoder.heads, config.decoder.layers, backbone.channels[:-1]
        ),
    )


def infer_family_settings(shapes: Shapes) -> dict[str, object]:
    """Infer settings from a checkpoint's shapes; heads and dilation cannot be inferred."""
    return {
        "width": shapes.size("heads.class_head.weight", 1),
        "queries": shapes.size("queries.position.weight", 0),
        "position": "learned" if shapes.has("neck.position.rows") else "sine",
        "norm": "pre" if shapes.has("encoder.norm.weight") else "post",
        "box_layers": shapes.count("heads.box_head.layers"),
        "mask_head": "convolutional" if shapes.has("mask_head.output.weight") else "none",
        "backbone": {"name": shapes.resnet("backbone.body")},
        "encoder": shapes.stack("encoder"),
        "decoder": shapes.stack("decoder"),
    }


_FILES = "https://dl.fbaipublicfiles.com/detr/"


def _variant(
    name: str, backbone: str, *, dc5: bool = False, file: str | None = None, ap: float | None = None
) -> Variant:
    config = replace(DetrConfig(), backbone=BackboneConfig(name=backbone, dilate_last=dc5))
    description = f"{backbone}, stride {16 if dc5 else 32}"
    return Variant(name, description, config, published=Published(_FILES + file, ap=ap) if file else None)


def _panoptic(base: Variant, file: str, ap: float, segm_ap: float, pq: float) -> Variant:
    """Return the variant with masks of things and stuff (section 4.4)."""
    name = f"{base.name}-panoptic"
    description = f"{base.description}, masks of things and stuff; published: mask AP {segm_ap}, PQ {pq}"
    config = replace(base.config, mask_head="convolutional")
    return Variant(name, description, config, published=Published(_FILES + file, ap=ap))


R50 = _variant("detr-r50", "resnet50", file="detr-r50-e632da11.pth", ap=42.0)
R50_DC5 = _variant("detr-r50-dc5", "resnet50", dc5=True, file="detr-r50-dc5-f0fb7ef5.pth", ap=43.3)
R101 = _variant("detr-r101", "resnet101", file="detr-r101-2c7b67e5.pth", ap=43.5)


FAMILY = Family(
    name="detr",
    config=DetrConfig,
    build=build,
    infer=infer_family_settings,
    classes=Shapes.softmax_classes,
    layouts=LAYOUTS,
    query_count="queries",
    variants=(
        _variant("detr-r18", "resnet18"),
        _variant("detr-r34", "resnet34"),
        R50,
        R50_DC5,
        R101,
        _variant("detr-r101-dc5", "resnet101", dc5=True, file="detr-r101-dc5-a2e86def.pth", ap=44.9),
        _panoptic(R50, "detr-r50-panoptic-00ce5173.pth", ap=38.8, segm_ap=31.1, pq=43.4),
        _panoptic(R50_DC5, "detr-r50-dc5-panoptic-da08f1b1.pth", ap=40.2, segm_ap=31.9, pq=44.6),
        _panoptic(R101, "detr-r101-panoptic-40021d53.pth", ap=40.1, segm_ap=33.0, pq=45.1),
    ),
)
