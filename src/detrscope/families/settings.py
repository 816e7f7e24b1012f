"""Settings that several families share."""

from __future__ import annotations

from typing import Literal

from detrscope.blocks.backbone import Backbone, NormKind, build_backbone
from detrscope.config import require, setting, settings

# Far above any published model, far below what a machine cannot hold: a typing error or a hostile file is refused
# before memory is taken.
MOST_LAYERS, MOST_HEADS, WIDEST, MOST_QUERIES = 100, 256, 16384, 100_000
MOST_POINTS, MOST_LEVELS, MOST_BOX_LAYERS = 256, 8, 16

NormPlace = Literal["post", "pre"]


@settings
class BackboneConfig:
    """Image to maps."""

    name: str = setting("resnet50", "resnet18, resnet34, resnet50, resnet101 or timm:NAME")
    dilate_last: bool = setting(False, "DC5: the last stage keeps stride 16 and dilates")
    norm: NormKind = setting("frozen", "frozen or trainable batch norm")
    trainable_stages: int = setting(
        3, "how many of stem and 4 stages learn, from the last; 5 is all", ge=0, le=5
    )

    def build(self, stages: tuple[int, ...]) -> Backbone:
        """The backbone with random weights, giving the maps of `stages` (1 to 4)."""
        backbone = build_backbone(self.name, stages=stages, dilate_last=self.dilate_last, norm=self.norm)
        backbone.train_stages(self.trainable_stages)
        return backbone


@settings
class LayersConfig:
    """A stack of transformer layers."""

    layers: int = setting(6, "number of layers", ge=0, le=MOST_LAYERS)
    heads: int = setting(8, "attention heads", ge=1, le=MOST_HEADS)
    feedforward: int = setting(2048, "hidden width of the feed-forward", ge=1, le=WIDEST)
    dropout: float = setting(0.1, "dropout in training", ge=0, lt=1)


def require_stacks(width: int, encoder: LayersConfig, decoder: LayersConfig, multiple: int) -> None:
    """Refuse a width that heads or positional encodings cannot divide, or a decoder without layers."""
    require(
        1 <= width <= WIDEST and width % multiple == 0,
        "width",
        width,
        f"a multiple of {multiple} up to {WIDEST}",
    )
    require(decoder.layers >= 1, "decoder.layers", decoder.layers, "1 or more")
    for name, stack in (("encoder", encoder), ("decoder", decoder)):
        require(width % stack.heads == 0, f"{name}.heads", stack.heads, f"a divisor of the width {width}")
