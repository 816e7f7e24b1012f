"""Settings that several families share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from detrscope.blocks.backbone import Backbone, NormKind, build_backbone
from detrscope.config import setting

NormPlace = Literal["post", "pre"]


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Image to maps."""

    name: str = setting("resnet50", "resnet18, resnet34, resnet50, resnet101 or timm:NAME")
    dilate_last: bool = setting(False, "DC5: the last stage keeps stride 16 and dilates")
    norm: NormKind = setting("frozen", "frozen or trainable batch norm")
    trainable_stages: int = setting(3, "how many of stem and 4 stages learn, from the last; 5 is all")

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
