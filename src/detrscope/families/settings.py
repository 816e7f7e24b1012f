"""Settings that several families share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from detrscope.blocks.backbone import Backbone, NormKind, build_backbone
from detrscope.config import setting
from detrscope.core.errors import UserError

# Far above any published model and far below what exhausts a machine: a typing error or a hostile file is refused
# before memory is allocated.
MAX_LAYERS, MAX_HEADS, MAX_WIDTH, MAX_QUERIES = 100, 256, 16384, 100_000
MAX_POINTS, MAX_LEVELS, MAX_BOX_LAYERS = 256, 8, 16

NormPosition = Literal["post", "pre"]


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Backbone: image to feature maps."""

    name: str = setting("resnet50", "resnet18, resnet34, resnet50, resnet101 or timm:NAME")
    dilate_last: bool = setting(False, "DC5: the last stage keeps stride 16 and dilates")
    norm: NormKind = setting("frozen", "frozen or trainable batch norm")
    trainable_stages: int = setting(3, "trained parts of stem and 4 stages, counted from the last; 5 is all")

    def __post_init__(self) -> None:
        require_range("trainable_stages", self.trainable_stages, 0, 5)

    def build(self, stages: tuple[int, ...]) -> Backbone:
        """Build the backbone with random weights; it gives the maps of `stages` (1 to 4)."""
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
        require_range("layers", self.layers, 0, MAX_LAYERS)
        require_range("heads", self.heads, 1, MAX_HEADS)
        require_range("feedforward", self.feedforward, 1, MAX_WIDTH)
        require(0 <= self.dropout < 1, "dropout", self.dropout, "0 or more and less than 1")


def require(valid: bool, name: str, value: object, expected: str) -> None:
    """Raise unless a setting is valid.

    Raises:
        UserError: it is not; names the setting, its value and what is expected.
    """
    if not valid:
        raise UserError(f"{name} is {value}: expected {expected}")


def require_range(name: str, value: int, least: int, most: int) -> None:
    """Raise unless a number lies in its range.

    Raises:
        UserError: it does not; names the setting and the limit.
    """
    expected = f"{least} or more" if value < least else f"{most} or less"
    require(least <= value <= most, name, value, expected)


def require_stages(name: str, stages: tuple[int, ...], count: int) -> None:
    """Raise unless backbone stages are some of 1 to `count`, in ascending order.

    Raises:
        UserError: they are not.
    """
    ordered = list(stages) == sorted(set(stages)) and len(stages) > 0
    valid = ordered and all(1 <= stage <= count for stage in stages)
    require(valid, name, list(stages), f"some of 1 to {count}, in order")


def require_stacks(width: int, encoder: LayersConfig, decoder: LayersConfig, multiple: int) -> None:
    """Raise unless heads and positional encodings divide the width and the decoder has layers.

    Raises:
        UserError: names the setting.
    """
    require(
        1 <= width <= MAX_WIDTH and width % multiple == 0,
        "width",
        width,
        f"a multiple of {multiple} up to {MAX_WIDTH}",
    )
    require_range("decoder.layers", decoder.layers, 1, MAX_LAYERS)
    for name, stack in (("encoder", encoder), ("decoder", decoder)):
        require(width % stack.heads == 0, f"{name}.heads", stack.heads, f"a divisor of the width {width}")
