"""Settings that several families share."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from detrscope.blocks.backbone import ConvBackbone, NormKind, build_backbone
from detrscope.config import require_config, setting, settings

# Far above any published model and far below what exhausts a machine: a typing error or a hostile file is refused
# before memory is allocated.
MAX_LAYERS, MAX_HEADS, MAX_WIDTH, MAX_QUERIES = 100, 256, 16384, 100_000
MAX_POINTS, MAX_LEVELS, MAX_BOX_LAYERS = 256, 8, 16

Layers = Annotated[int, Field(ge=0, le=MAX_LAYERS)]
Heads = Annotated[int, Field(ge=1, le=MAX_HEADS)]
Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
Queries = Annotated[int, Field(ge=1, le=MAX_QUERIES)]
BoxLayers = Annotated[int, Field(ge=1, le=MAX_BOX_LAYERS)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
TrainableStages = Annotated[int, Field(ge=0, le=5)]

NormPosition = Literal["post", "pre"]


@settings
class BackboneConfig:
    """Backbone: image to feature maps."""

    name: str = setting(
        "resnet50",
        "resnet18, 34, 50 or 101, such a name with a d (ResNet-D), hgnetv2_b0, b2, b4, b5, or timm:NAME",
    )
    dilate_last: bool = setting(False, "DC5: the last stage keeps stride 16 and dilates")
    norm: NormKind = setting("frozen", "frozen or trainable batch norm")
    trainable_stages: TrainableStages = setting(
        3, "trained parts of stem and 4 stages, counted from the last; 5 is all"
    )

    def build(self, stages: tuple[int, ...]) -> ConvBackbone:
        """Build the backbone with random weights; it gives the maps of `stages` (1 to 4)."""
        backbone = build_backbone(self.name, stages=stages, dilate_last=self.dilate_last, norm=self.norm)
        backbone.train_stages(self.trainable_stages)
        return backbone


@settings
class LayersConfig:
    """A stack of transformer layers."""

    layers: Layers = setting(6, "number of layers")
    heads: Heads = setting(8, "attention heads")
    feedforward: Width = setting(2048, "hidden width of the feed-forward")
    dropout: Dropout = setting(0.1, "dropout in training")


def require_backbone_stages(name: str, stages: tuple[int, ...], count: int) -> None:
    """Raise unless backbone stages are some of 1 to `count`, in ascending order."""
    ordered = list(stages) == sorted(set(stages)) and len(stages) > 0
    valid = ordered and all(1 <= stage <= count for stage in stages)
    require_config(valid, name, list(stages), f"some of 1 to {count}, in order")


def require_points(points: tuple[int, ...], maps: int, of: str) -> None:
    """Raise unless `decoder.points` has a number for each of `maps` maps, not all 0 and not too large."""
    valid = len(points) == maps and 0 < sum(points) <= MAX_POINTS
    require_config(
        valid, "decoder.points", points, f"one number for each of {of}, {MAX_POINTS} in all at most"
    )


def require_hybrid(
    width: int, encoder: LayersConfig, encoder_width: int, decoder: LayersConfig, stages: tuple[int, ...]
) -> None:
    """Raise unless heads and positional encodings divide the widths of a hybrid encoder (RT-DETR's) and its decoder."""
    require_config(decoder.layers >= 1, "decoder.layers", decoder.layers, "1 or more")
    for name, size, heads in (
        ("width", width, decoder.heads),
        ("encoder.width", encoder_width, encoder.heads),
    ):
        multiple = math.lcm(4, heads)
        require_config(size % multiple == 0, name, size, f"a multiple of {multiple}")
    require_backbone_stages("stages", stages, 4)


def require_stacks(width: int, encoder: LayersConfig, decoder: LayersConfig, multiple: int) -> None:
    """Raise unless heads and positional encodings divide the width and the decoder has layers."""
    require_config(width % multiple == 0, "width", width, f"a multiple of {multiple}")
    require_config(decoder.layers >= 1, "decoder.layers", decoder.layers, "1 or more")
    for name, stack in (("encoder", encoder), ("decoder", decoder)):
        require_config(
            width % stack.heads == 0, f"{name}.heads", stack.heads, f"a divisor of the width {width}"
        )
