"""Projectors: maps of one size, of several layers of a backbone, to the maps of a pyramid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrscope.blocks.fusion import ConvNorm
from detrscope.blocks.neck import flatten_maps, shrink_padding
from detrscope.core.types import Pyramid
from detrscope.ops.position import positions_of_pyramid

WIDE = 512  # channels above which a map is narrowed before it is enlarged

Convolution = Callable[[int, int, int], nn.Module]
"""(incoming channels, outgoing channels, side of the kernel) -> a convolution with norm and activation."""


class ChannelNormConv(nn.Module):
    """Convolution without bias, a layer norm over the channels of each pixel, SiLU.

    Args:
        channels: incoming channels.
        width: outgoing channels.
        size: side of the kernel, odd; the map keeps its size.
        epsilon: number added to variances.
    """

    def __init__(self, channels: int, width: int, size: int, epsilon: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, size, padding=size // 2, bias=False)
        self.norm = nn.LayerNorm(width, eps=epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W]."""
        return F.silu(self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def batch_norm_convolution(channels: int, width: int, size: int) -> nn.Module:
    """Return a convolution with a batch norm and SiLU."""
    return ConvNorm(channels, width, size, activation="silu")


def channel_norm_convolution(epsilon: float) -> Convolution:
    """Return what makes a convolution with a norm over channels and SiLU, as RF-DETR's."""
    return lambda channels, width, size: ChannelNormConv(channels, width, size, epsilon)


class C2fBlock(nn.Module):
    """Half of the channels through bottlenecks, whose outputs are all kept and joined (YOLOv8's C2f).

    Args:
        channels: incoming channels.
        width: outgoing channels.
        convolution: makes a convolution with norm and activation.
        blocks: number of bottlenecks.
    """

    def __init__(self, channels: int, width: int, convolution: Convolution, blocks: int = 3) -> None:
        super().__init__()
        hidden = width // 2
        self.conv1 = convolution(channels, 2 * hidden, 1)
        self.bottlenecks = nn.ModuleList(
            nn.Sequential(*(convolution(hidden, hidden, 3) for _ in range(2))) for _ in range(blocks)
        )
        self.conv2 = convolution((2 + blocks) * hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W]."""
        parts = [*self.conv1(x).chunk(2, dim=1)]
        for bottleneck in self.bottlenecks:
            parts.append(bottleneck(parts[-1]))
        joined: Tensor = self.conv2(torch.cat(parts, dim=1))
        return joined


class ScaleProjector(nn.Module):
    """Maps of several layers, resized and fused to one.

    Args:
        channels: channels of each incoming map.
        width: D.
        scale: size of the outgoing map by the size of those that come in: 0.5, 1 or 2.
        convolution: makes a convolution with norm and activation.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        width: int,
        scale: float,
        convolution: Convolution = batch_norm_convolution,
    ) -> None:
        super().__init__()
        resized = [_resize(c, scale) for c in channels]
        self.resize = nn.ModuleList(module for module, _ in resized)
        self.fuse = C2fBlock(sum(c for _, c in resized), width, convolution)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Fuse maps [B, C_l, H, W] into [B, D, H * scale, W * scale]."""
        x = self.fuse(torch.cat([resize(x) for resize, x in zip(self.resize, maps, strict=True)], dim=1))
        normed: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return normed


class ProjectorNeck(nn.Module):
    """A projector for each map of the pyramid, all of the same maps; positions are left to the decoder.

    LW-DETR (arXiv:2406.03459, section 3.1, "projector").
    """

    def __init__(self, scales: list[ScaleProjector]) -> None:
        super().__init__()
        self.scales = nn.ModuleList(scales)

    def forward(self, maps: list[Tensor], padding: Tensor | None) -> Pyramid:
        """Turn maps [B, C_l, H, W] and padding [B, H', W'] into tokens [B, S, D] of all levels; position is zero."""
        projected = [scale(maps) for scale in self.scales]
        paddings = [shrink_padding(padding, x) for x in projected]
        pyramid = flatten_maps(projected, [projected[0].new_zeros(1, 1, 1)], paddings)
        centres = positions_of_pyramid(pyramid.padding, pyramid.levels, pyramid.tokens)
        return replace(pyramid, centres=centres)


def _resize(channels: int, scale: float) -> tuple[nn.Module, int]:
    """Return the layers that resize a map, and the channels that come out of them."""
    if scale == 1:
        return nn.Sequential(), channels
    if scale < 1:
        return nn.Sequential(ConvNorm(channels, channels, 3, 2, "relu")), channels
    if channels <= WIDE:
        return nn.Sequential(nn.ConvTranspose2d(channels, channels // 2, 2, 2)), channels // 2
    narrow = ConvNorm(channels, channels // 2, activation="relu")
    return nn.Sequential(narrow, nn.ConvTranspose2d(channels // 2, channels // 4, 2, 2)), channels // 4
