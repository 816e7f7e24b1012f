"""Necks: feature maps to one sequence of tokens of the model's width, with their positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrscope.blocks.fusion import ConvNorm
from detrscope.blocks.position import Position
from detrscope.core.types import Level, Pyramid
from detrscope.ops.convolution import convolution_and_norm
from detrscope.ops.position import positions_of_pyramid, positions_of_tokens, sine_coordinates


class ProjectionNeck(nn.Module):
    """Neck of DETR: a 1x1 convolution of the last map to width D; positions go along to every layer."""

    def __init__(self, channels: int, width: int, position: Position) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, width, kernel_size=1)
        self.position = position

    def forward(self, maps: list[Tensor], padding: Tensor | None) -> Pyramid:
        """Turn maps [B, C_l, H_l, W_l] and padding [B, H, W] into tokens [B, H_L*W_L, D] of the last map."""
        x = self.projection(maps[-1])  # [B, D, H, W]
        padding = shrink_padding(padding, x)
        return flatten_maps([x], [self.position(x, padding)], [padding])


class SummedNeck(ProjectionNeck):
    """Neck of the minimal DETR: the position is added to a tenth of the projected map, once."""

    def forward(self, maps: list[Tensor], padding: Tensor | None) -> Pyramid:
        """Turn maps [B, C_l, H_l, W_l] into tokens [B, H_L*W_L, D]; position is zero from here on."""
        pyramid = super().forward(maps, padding)
        tokens = pyramid.position + 0.1 * pyramid.tokens
        return replace(pyramid, tokens=tokens, position=tokens.new_zeros(1, 1, 1))


class PyramidNeck(nn.Module):
    """A 1x1 convolution and a batch norm for each map.

    The position of a token is the sine encoding of its centre; a learned vector encodes its level.
    """

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.width = width
        self.projections = nn.ModuleList(nn.Conv2d(c, width, kernel_size=1, bias=False) for c in channels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in channels)
        self.level = nn.Parameter(torch.zeros(len(channels), width))

    def forward(self, maps: list[Tensor], padding: Tensor | None) -> Pyramid:
        """Turn maps [B, C_l, H_l, W_l] and padding [B, H, W] into tokens [B, S, D] of all levels."""
        projected, paddings, centres = [], [], []
        for x, projection, norm, level in zip(maps, self.projections, self.norms, self.level, strict=True):
            x = norm(projection(x))  # [B, D, H_l, W_l]
            projected.append(x + level.to(x.dtype)[:, None, None])
            paddings.append(shrink_padding(padding, x))
            centres.append(positions_of_tokens(paddings[-1], x.shape[-2], x.shape[-1], x))
        positions = [sine_coordinates(c, self.width // 2).to(projected[0].dtype) for c in centres]
        return replace(flatten_maps(projected, positions, paddings), centres=torch.cat(centres, dim=1))


class ConvNormNeck(nn.Module):
    """A 1x1 convolution and a batch norm for each map; positions are left to the encoder.

    Args:
        channels: channels of each incoming map.
        width: C of the tokens.
    """

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(ConvNorm(c, width) for c in channels)

    def project(self, maps: list[Tensor]) -> list[Tensor]:
        """Turn maps [B, C_l, H_l, W_l] into maps [B, C, H_l, W_l]."""
        return [projection(x) for projection, x in zip(self.projections, maps, strict=True)]

    def forward(self, maps: list[Tensor], padding: Tensor | None) -> Pyramid:
        """Turn maps [B, C_l, H_l, W_l] and padding [B, H, W] into tokens [B, S, C] of all levels; position is zero."""
        projected = self.project(maps)
        paddings = [shrink_padding(padding, x) for x in projected]
        pyramid = flatten_maps(projected, [projected[0].new_zeros(1, 1, 1)], paddings)
        centres = positions_of_pyramid(pyramid.padding, pyramid.levels, pyramid.tokens)
        return replace(pyramid, centres=centres)


class CoarserNeck(ConvNormNeck):
    """The same, and one more map of half the size, pooled from the last (DEIMv2, arXiv:2509.20787)."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__(channels, width)
        self.coarser = ConvNorm(width, width, activation="silu")

    def project(self, maps: list[Tensor]) -> list[Tensor]:
        """Turn maps [B, C_l, H_l, W_l] into maps [B, C, H_l, W_l], one more than there are."""
        projected = super().project(maps)
        return [*projected, self.coarser(F.avg_pool2d(projected[-1], kernel_size=3, stride=2, padding=1))]


class DeformableNeck(nn.Module):
    """A 1x1 convolution and a group norm for each map, then coarser levels by strided 3x3 convolutions.

    Positions are sines plus a learned vector for each level (Deformable DETR, arXiv:2010.04159, section 4.1 and
    appendix A.2).

    Args:
        channels: channels of each incoming map.
        width: D.
        extra: number of coarser levels, each of half the size; the first is made of the last map as it came, the
            others of one another.
        position: positional encoding of a map.
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
        """Turn maps [B, C_l, H_l, W_l] and padding [B, H, W] into tokens [B, S, D] of all levels."""
        projected: list[Tensor] = []
        positions, paddings = [], []
        for index, (projection, norm, level) in enumerate(
            zip(self.projections, self.norms, self.level, strict=True)
        ):
            source = maps[index] if index < len(maps) else maps[-1] if index == len(maps) else projected[-1]
            assert isinstance(projection, nn.Conv2d)
            x = norm(convolution_and_norm(source, projection, nn.Identity()))  # [B, D, H_l, W_l]
            projected.append(x)
            paddings.append(shrink_padding(padding, x))
            positions.append(self.position(x, paddings[-1]) + level.to(x.dtype))  # [B or 1, H_l*W_l, D]
        pyramid = flatten_maps(projected, positions, paddings)
        centres = positions_of_pyramid(pyramid.padding, pyramid.levels, pyramid.tokens)
        return replace(pyramid, centres=centres)


def shrink_padding(padding: Tensor | None, features: Tensor) -> Tensor | None:
    """Scale the padding [B, H, W] of images to the size of a map [B, C, h, w]: nearest pixel, [B, h, w]."""
    if padding is None:
        return None
    small = F.interpolate(padding[:, None].float(), size=features.shape[-2:])  # [B, 1, h, w]
    return small[:, 0].bool()


def flatten_maps(
    maps: Sequence[Tensor], positions: Sequence[Tensor], paddings: Sequence[Tensor | None]
) -> Pyramid:
    """Concatenate the tokens of all levels.

    Args:
        maps: [B, D, H_l, W_l] of each level.
        positions: [B or 1, H_l*W_l, D] of each level.
        paddings: [B, H_l, W_l] of each level, all None where no image is padded.
    """
    padded = [padding.flatten(1) for padding in paddings if padding is not None]
    return Pyramid(
        tokens=torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1),
        position=torch.cat(list(positions), dim=1),
        levels=tuple(Level(*x.shape[-2:]) for x in maps),
        padding=torch.cat(padded, dim=1) if padded else None,
    )
