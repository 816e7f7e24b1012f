"""Settings that several families share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from detrscope.blocks.backbone import Backbone, NormKind, build_backbone
from detrscope.config import setting
from detrscope.core.errors import UserError

# Far above any published model, far below what a machine cannot hold: a typing error or a hostile file is refused
# before memory is taken.
MOST_LAYERS, MOST_HEADS, WIDEST, MOST_QUERIES = 100, 256, 16384, 100_000
MOST_POINTS, MOST_LEVELS, MOST_BOX_LAYERS = 256, 8, 16

NormPlace = Literal["post", "pre"]


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Image to maps."""

    name: str = setting("resnet50", "resnet18, resnet34, resnet50, resnet101 or timm:NAME")
    dilate_last: bool = setting(False, "DC5: the last stage keeps stride 16 and dilates")
    norm: NormKind = setting("frozen", "frozen or trainable batch norm")
    trainable_stages: int = setting(3, "how many of stem and 4 stages learn, from the last; 5 is all")

    def __post_init__(self) -> None:
        require_range("trainable_stages", self.trainable_stages, 0, 5)

    def build(self, stages: tuple[int, ...]) -> Backbone:
        """The backbone with random weights, giving the maps of `stages` (1 to 4)."""
        backbone = build_backbone(self.name, stages=stages, dilate_last=self.dilate_last, norm=self.norm)
        backbone.train_stages(self.trainable_stages)
        return backbone


@dataclass(frozen=True, kw_only=True)
class LayersConfig:
    """A stack of transformer layers."""

    layers: int = setting(6, "number of layers")
    heads: int = setting(8, "attention heads")
    feedforward: int = setting(2048, "hidden width of the feed-forward")
    dropout: float = setting(0.1, "dropout in training")

    def __post_init__(self) -> None:
        require_range("layers", self.layers, 0, MOST_LAYERS)
        require_range("heads", self.heads, 1, MOST_HEADS)
        require_range("feedforward", self.feedforward, 1, WIDEST)
        require(0 <= self.dropout < 1, "dropout", self.dropout, "0 or more and less than 1")


def require(fine: bool, name: str, value: object, expected: str) -> None:
    """Refuse a setting.

    Raises:
        UserError: it is not fine.
    """
    if not fine:
        raise UserError(f"{name} is {value}: expected {expected}")


def require_range(name: str, value: int, least: int, most: int) -> None:
    """Refuse a number below or above what can work.

    Raises:
        UserError: the setting and its range are named.
    """
    expected = f"{least} or more" if value < least else f"{most} or less"
    require(least <= value <= most, name, value, expected)


def require_stacks(width: int, encoder: LayersConfig, decoder: LayersConfig, multiple: int) -> None:
    """Refuse a width that heads or positional encodings cannot divide, or a decoder without layers.

    Raises:
        UserError: the setting is named.
    """
    require(
        1 <= width <= WIDEST and width % multiple == 0,
        "width",
        width,
        f"a multiple of {multiple} up to {WIDEST}",
    )
    require_range("decoder.layers", decoder.layers, 1, MOST_LAYERS)
    for name, stack in (("encoder", encoder), ("decoder", decoder)):
        require(width % stack.heads == 0, f"{name}.heads", stack.heads, f"a divisor of the width {width}")
