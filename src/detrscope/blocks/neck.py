"""Necks: feature maps to one row of tokens of the model's width, each knowing its place."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrscope.blocks.position import Position
from detrscope.core.types import Level, Pyramid
from detrscope.ops.convolution import conv_norm
from detrscope.ops.position import sine_coordinates, token_centres


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


class SummedNeck(ProjectionNeck):
    """The minimal DETR's: the position is added to the tokens once, a tenth of the projected map beside it."""

    def forward(self, maps: list[Tensor], padding: Tensor | None) -> Pyramid:
        """Maps [B, C_l, H_l, W_l] -> tokens [B, H_L*W_L, D]; position is zero from here on."""
        pyramid = super().forward(maps, padding)
        tokens = pyramid.position + 0.1 * pyramid.tokens
        return replace(pyramid, tokens=tokens, position=tokens.new_zeros(1, 1, 1))


def shrink_padding(padding: Tensor | None, features: Tensor) -> Tensor | None:
    """Padding [B, H, W] of the image at the size of a map [B, C, h, w]: nearest pixel, [B, h, w]."""
    if padding is None:
        return None
    small = F.interpolate(padding[:, None].float(), size=features.shape[-2:])  # [B, 1, h, w]
    return small[:, 0].bool()


class PyramidNeck(nn.Module):
    """A 1x1 convolution and a norm for each map, all tokens in one row, coarse maps after fine ones.

    Each token knows its centre; its position is the sine encoding of that, and a learned vector tells its level.
    """

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.width = width
        self.projections = nn.ModuleList(nn.Conv2d(c, width, kernel_size=1, bias=False) for c in channels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in channels)
        self.level = nn.Parameter(torch.zeros(len(channels), width))

    def forward(self, maps: list[Tensor], padding: Tensor | None) -> Pyramid:
        """Maps [B, C_l, H_l, W_l] and padding [B, H, W] -> tokens [B, S, D] of all of them."""
        tokens, centres, paddings, levels = [], [], [], []
        for x, projection, norm, level in zip(maps, self.projections, self.norms, self.level, strict=True):
            x = norm(projection(x))  # [B, D, H_l, W_l]
            height, width = x.shape[-2:]
            small = shrink_padding(padding, x)  # [B, H_l, W_l]
            tokens.append(x.flatten(2).transpose(1, 2) + level.to(x.dtype))
            centres.append(token_centres(small, height, width, x))
            levels.append(Level(height, width))
            if small is not None:
                paddings.append(small.flatten(1))
        where = torch.cat(centres, dim=1)  # [B or 1, S, 2]
        row = torch.cat(tokens, dim=1)  # [B, S, D]
        return Pyramid(
            tokens=row,
            position=sine_coordinates(where, self.width // 2).to(row.dtype),
            levels=tuple(levels),
            padding=torch.cat(paddings, dim=1) if paddings else None,
            centres=where,
        )


class DeformableNeck(nn.Module):
    """A 1x1 convolution and a group norm for each map, then maps of half the size each, made by 3x3 convolutions.

    Positions are sines plus a learned vector for each level (Deformable DETR, arXiv:2010.04159, section 4.1 and
    appendix A.2). Tokens of all maps stand in one row, coarse maps after fine ones.

    Args:
        channels: of each map that comes in.
        width: D.
        extra: coarser maps to make; the first from the last map as it came, the others from one another.
        position: gives each map's encoding.
    """

    def __init__(self, channels: tuple[int, ...], width: int, extra: int, position: Position) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(c, width, kernel_size=1) for c in channels)
        for index in range(extra):
            before = width if index else channels[-1]
            self.projections.append(nn.Conv2d(before, width, kernel_size=3, stride=2, padding=1))
        groups = math.gcd(32, width)
        self.norms = nn.ModuleList(nn.GroupNorm(groups, width) for _ in self.projections)
        self.level = nn.Parameter(torch.randn(len(self.projections), width))
        self.position = position
        for projection in self.projections:
            nn.init.xavier_uniform_(projection.get_parameter("weight"))
            nn.init.zeros_(projection.get_parameter("bias"))

    def forward(self, maps: list[Tensor], padding: Tensor | None) -> Pyramid:
        """Maps [B, C_l, H_l, W_l] and padding [B, H, W] -> tokens [B, S, D] of all levels."""
        tokens, positions, paddings, levels = [], [], [], []
        x = maps[-1]
        for index, (projection, norm, level) in enumerate(
            zip(self.projections, self.norms, self.level, strict=True)
        ):
            source = maps[index] if index < len(maps) else maps[-1] if index == len(maps) else x
            assert isinstance(projection, nn.Conv2d)
            x = norm(conv_norm(source, projection, nn.Identity(), relu=False))  # [B, D, H_l, W_l]
            small = shrink_padding(padding, x)  # [B, H_l, W_l]
            tokens.append(x.flatten(2).transpose(1, 2))
            positions.append(self.position(x, small) + level.to(x.dtype))  # [B or 1, H_l*W_l, D]
            levels.append(Level(*x.shape[-2:]))
            if small is not None:
                paddings.append(small.flatten(1))
        return Pyramid(
            tokens=torch.cat(tokens, dim=1),
            position=torch.cat(positions, dim=1),
            levels=tuple(levels),
            padding=torch.cat(paddings, dim=1) if paddings else None,
        )
