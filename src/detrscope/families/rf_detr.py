"""RF-DETR: LW-DETR's projector and decoder after a DINOv2 backbone (Robinson et al. 2025, arXiv:2511.09554)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from detrscope.blocks.attention import WindowSelfAttention
from detrscope.blocks.path import DetectionTransformer
from detrscope.blocks.projector import ProjectorNeck, ScaleProjector, channel_norm_convolution
from detrscope.blocks.vit import DinoBackbone
from detrscope.config import config_section, require_config, setting, settings
from detrscope.core.preprocessing import Preprocessing
from detrscope.families.family import Family, OnHub, Variant
from detrscope.families.keys.rf_detr import LAYOUTS, RFDetrHubConfig, published_layers
from detrscope.families.keys.shapes import Shapes
from detrscope.families.lw_detr import (
    GroupDecoderConfig,
    LWDetrConfig,
    ViTConfig,
    build_group_detector,
    infer_group_settings,
    vit_layers,
)
from detrscope.families.settings import Heads, Layers, Width

SEG_PATCH = 12  # pixels, of the sizes with masks
FACTOR = 1.0  # initial factor of what a backbone layer adds


@settings
class DinoConfig(ViTConfig):
    """Backbone: DINOv2, most of its layers within windows."""

    width: Width = setting(384, "width of the tokens")
    layers: Layers = setting(12, "number of layers")
    heads: Heads = setting(6, "attention heads")
    patch: Annotated[int, Field(ge=1, le=64)] = setting(
        16, "side of a patch in pixels, the stride of the map"
    )
    grid: Annotated[int, Field(ge=1, le=256)] = setting(
        24, "side of the learned grid of positions, in tokens; interpolated to the size of the image"
    )
    windows: Annotated[int, Field(ge=1, le=64)] = setting(2, "windows along each side of the map")
    window_layers: tuple[int, ...] = setting(
        (0, 1, 2, 4, 5, 7, 8, 10, 11), "layers with attention within windows, from 0"
    )
    maps: tuple[int, ...] = setting((2, 5, 8, 11), "layers whose tokens go to the projector, from 0")

    def __post_init__(self) -> None:
        super().__post_init__()
        last = self.layers - 1
        require_config(self.maps[-1] == last, "maps", list(self.maps), f"the last layer, {last}, among them")


@settings
class RFDetrConfig(LWDetrConfig):
    """Settings of the family `rf_detr`."""

    projector_epsilon: Annotated[float, Field(gt=0, le=0.1)] = setting(
        1e-5, "number added to variances in the norms of the projector; the authors' own code has 1e-6"
    )
    backbone: DinoConfig = config_section(DinoConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_config(self.scales == (1.0,), "scales", list(self.scales), "1: one map")


def build(config: RFDetrConfig, classes: int) -> DetectionTransformer:
    """Build the model with random weights; K = classes, scored by sigmoids."""
    v = config.backbone
    backbone = DinoBackbone(
        vit_layers(v, WindowSelfAttention, FACTOR), v.width, v.patch, v.grid, v.maps, v.windows**2
    )
    convolution = channel_norm_convolution(config.projector_epsilon)
    neck = ProjectorNeck([ScaleProjector(backbone.channels, config.width, 1.0, convolution)])
    return build_group_detector(config, classes, backbone, neck)


def infer_family_settings(shapes: Shapes) -> dict[str, object]:
    """Infer settings from a checkpoint's shapes; heads, windows and maps, not visible in them, are as published."""
    width = shapes.size("backbone.embedding.weight", 0)
    patch, grid = shapes.size("backbone.embedding.weight", -1), shapes.size("backbone.position", 1)
    return {
        **infer_group_settings(shapes),
        "scales": (1.0,),
        "projector_epsilon": 1e-6,  # of the authors' files; those of Hugging Face say theirs
        "backbone": {
            "width": width,
            "layers": shapes.count("backbone.layers"),
            "heads": max(1, width // 64),
            "patch": patch,
            "grid": grid,
            **published_layers(patch, grid),
        },
    }


def _variant(size: str, side: int, ap: float | None, config: RFDetrConfig) -> Variant:
    return Variant(
        f"rfdetr-{size}",
        f"DINOv2 of {config.backbone.layers} layers, images of {side} pixels, {config.decoder.layers} decoder layers",
        config,
        OnHub(f"Roboflow/rf-detr-{size}", ap),
        preprocessing=Preprocessing(fit="exact", box=(side, side)),
    )


def _config(grid: int, layers: int) -> RFDetrConfig:
    return RFDetrConfig(backbone=DinoConfig(grid=grid), decoder=GroupDecoderConfig(layers=layers))


BASE = RFDetrConfig(
    backbone=DinoConfig(
        layers=11, patch=14, grid=37, windows=4, window_layers=(0, 1, 3, 4, 6, 7, 9, 10), maps=(1, 4, 7, 10)
    )
)


def _with_masks(size: str, mask_ap: float, side: int, layers: int, queries: int, windows: int = 2) -> Variant:
    """Return the variant with a mask head, which has a backbone of smaller patches."""
    config = RFDetrConfig(
        queries=queries,
        mask_head="dot-product",
        backbone=DinoConfig(patch=SEG_PATCH, grid=side // SEG_PATCH, windows=windows),
        decoder=GroupDecoderConfig(layers=layers),
    )
    base = _variant(f"seg-{size}", side, None, config)
    description = f"{base.description}, {queries} queries, masks; published: mask AP {mask_ap}"
    hub = OnHub(f"Roboflow/rf-detr-seg-{size.replace('2xlarge', 'xxlarge')}", None)
    return replace(base, description=description, published=hub, top=queries)


FAMILY = Family(
    name="rf_detr",
    config=RFDetrConfig,
    build=build,
    infer=infer_family_settings,
    classes=lambda shapes: shapes.rows("heads.class_head.weight"),
    layouts=LAYOUTS,
    query_count="queries",
    top=300,
    incidental=("projector_epsilon",),
    hub_configs={"rf_detr": RFDetrHubConfig},
    variants=(
        _variant("nano", 384, 48.4, _config(24, 2)),
        _variant("small", 512, 53.0, _config(32, 3)),
        _variant("medium", 576, 54.7, _config(36, 4)),
        _variant("base", 560, 53.3, BASE),
        _variant("large", 704, 56.5, _config(44, 4)),
        _with_masks("nano", 40.3, 312, 4, 100, windows=1),
        _with_masks("small", 43.1, 384, 4, 100),
        _with_masks("medium", 45.3, 432, 5, 200),
        # The authors' settings say 200 queries, their file and its 36.2 million parameters 300.
        _with_masks("large", 47.1, 504, 5, 300),
        _with_masks("xlarge", 48.8, 624, 6, 300),
        _with_masks("2xlarge", 49.9, 768, 6, 300),
    ),
)
