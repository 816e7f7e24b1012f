"""Necks: feature maps to one row of tokens of the model's width, each knowing its place."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detrscope.blocks.position import LearnedPosition, Position
from detrscope.core.types import Level, Pyramid


class ProjectionNeck(nn.Module):
    """DETR's: a 1x1 convolution of the last map to width D; positions go along to every layer."""

    def __init__(self, channels: int, width: int, position: Position) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, width, kernel_size=1)
        self.position = position

    def forward(self, maps: list[Tensor], padding: Tensor | None) -> Pyramid:
        """Maps [B, C_l, H_l, W_l] and padding [B, H, W] -> tokens [B, H_L*W_L, D] of the last map."""
        x = self.projection(maps[-1])  # [B, D, H, W]
        padding = shrink_padding(padding, x)
        return Pyramid(
            tokens=x.flatten(2).transpose(1, 2),
            position=self.position(x, padding),
            levels=(Level(*x.shape[-2:]),),
            padding=None if padding is None else padding.flatten(1),
        )


class SummedNeck(nn.Module):
    """The minimal DETR's: the learned position is added to the tokens once, a tenth of the projected map beside it."""

    def __init__(self, channels: int, width: int, position: LearnedPosition) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, width, kernel_size=1)
        self.position = position

    def forward(self, maps: list[Tensor], padding: Tensor | None) -> Pyramid:
        """Maps [B, C_l, H_l, W_l] -> tokens [B, H_L*W_L, D]; position is zero from here on."""
        x = self.projection(maps[-1])  # [B, D, H, W]
        padding = shrink_padding(padding, x)
        tokens = self.position(x, padding) + 0.1 * x.flatten(2).transpose(1, 2)
        return Pyramid(
            tokens=tokens,
            position=tokens.new_zeros(1, 1, 1),
            levels=(Level(*x.shape[-2:]),),
            padding=None if padding is None else padding.flatten(1),
        )


def shrink_padding(padding: Tensor | None, features: Tensor) -> Tensor | None:
    """Padding [B, H, W] of the image at the size of a map [B, C, h, w]: nearest pixel, [B, h, w]."""
    if padding is None:
        return None
    small = F.interpolate(padding[:, None].float(), size=features.shape[-2:])  # [B, 1, h, w]
    return small[:, 0].bool()
