"""Convolutional blocks that fuse feature maps of different sizes (RT-DETR, arXiv:2304.08069, section 4.2, figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrscope.ops.convolution import (
    ACTIVATIONS,
    Activation,
    convolution_and_norm,
    fold_norm_into_convolution,
)


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, activation.

    Args:
        channels: incoming channels.
        width: outgoing channels.
        size: side of the kernel; where it is odd, the map keeps its size but for the stride.
        stride: stride.
        activation: what follows the norm.
        groups: groups of channels that do not mix; as many as channels: a depthwise convolution.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        size: int = 1,
        stride: int = 1,
        activation: Activation = "none",
        groups: int = 1,
    ) -> None:
        super().__init__()
        padding = (size - 1) // 2
        self.conv = nn.Conv2d(channels, width, size, stride, padding=padding, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(width)
        self.activation: Activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W']."""
        return convolution_and_norm(x, self.conv, self.norm, self.activation)

    def fold_norms(self) -> None:
        """Multiply the norm into the convolution for good; for inference, since the state dict changes."""
        self.conv, self.norm = fold_norm_into_convolution(self.conv, self.norm), nn.Identity()


class RepVggBlock(nn.Module):
    """Sum of a 3x3 and a 1x1 convolution, each with its norm, then SiLU (RepVGG, arXiv:2101.03697, section 3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(width, width, 3)
        self.conv2: nn.Module = ConvNorm(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        if isinstance(self.conv2, nn.Identity):
            return cast(Tensor, self.conv1(x))
        return ACTIVATIONS["silu"](self.conv1(x) + self.conv2(x))

    def fold_norms(self) -> None:
        """Turn both convolutions into one of 3x3 (section 3.3); for inference, since the state dict changes."""
        if isinstance(self.conv2, nn.Identity):
            return
        assert isinstance(self.conv2, ConvNorm)
        for part in (self.conv1, self.conv2):
            part.fold_norms()
        large, small = self.conv1.conv, self.conv2.conv
        assert large.bias is not None and small.bias is not None
        with torch.no_grad():
            large.weight += F.pad(small.weight, (1, 1, 1, 1))
            large.bias += small.bias
        self.conv1.activation, self.conv2 = "silu", nn.Identity()


class CrossStageBlock(nn.Module):
    """Two 1x1 convolutions of the same map, one followed by RepVGG blocks, added up (CSPNet, arXiv:1911.11929).

    Args:
        channels: incoming channels.
        width: outgoing channels.
        hidden: channels inside.
        blocks: number of RepVGG blocks.
    """

    def __init__(self, channels: int, width: int, hidden: int, blocks: int = 3) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, hidden, activation="silu")
        self.conv2 = ConvNorm(channels, hidden, activation="silu")
        self.bottlenecks = nn.Sequential(*(RepVggBlock(hidden) for _ in range(blocks)))
        self.conv3 = nn.Identity() if hidden == width else ConvNorm(hidden, width, activation="silu")

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W]."""
        y: Tensor = self.conv3(self.bottlenecks(self.conv1(x)) + self.conv2(x))
        return y


class SplitStageBlock(nn.Module):
    """A 1x1 convolution in two halves, one of which goes through RepVGG blocks, added up (DEIMv2, arXiv:2509.20787)."""

    def __init__(self, channels: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, 2 * hidden, activation="silu")
        self.bottlenecks = nn.Sequential(*(RepVggBlock(hidden) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W]."""
        kept, x = self.conv1(x).chunk(2, dim=1)
        y: Tensor = kept + self.bottlenecks(x)
        return y


class PooledContext(ConvNorm):
    """A 1x1 convolution of a map to which the mean over the whole image is added (DEIMv2, arXiv:2509.20787)."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W]."""
        return super().forward(x + x.mean((2, 3), keepdim=True))


class LayerAggregation(nn.Module):
    """A map in two halves; branches follow one another from the second half, and all parts are joined by a convolution.

    Efficient layer aggregation (ELAN, arXiv:2211.04800) with cross-stage blocks, as in GELAN (YOLOv9,
    arXiv:2402.13616, section 4.2) and D-FINE (arXiv:2410.13842, section 5.1).

    Args:
        first: convolution of the map, whose outgoing channels are halved.
        branches: each takes the part before it.
        last: convolution of all parts.
    """

    def __init__(self, first: ConvNorm, branches: Sequence[nn.Module], last: ConvNorm) -> None:
        super().__init__()
        self.first = first
        self.branches = nn.ModuleList(branches)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W]."""
        parts = list(self.first(x).chunk(2, dim=1))
        for branch in self.branches:
            parts.append(branch(parts[-1]))
        y: Tensor = self.last(torch.cat(parts, dim=1))
        return y


class PyramidFusion(nn.Module):
    """Maps of several sizes fused from coarse to fine, then from fine to coarse; maps are joined along the channels.

    Args:
        laterals: of a map of C channels before it is enlarged, one for each step, as are the others.
        down_blocks: of two joined maps, on the way to the finest.
        strided: halve the size of a map.
        up_blocks: of two joined maps, on the way to the coarsest.
    """

    def __init__(
        self,
        laterals: Sequence[nn.Module],
        down_blocks: Sequence[nn.Module],
        strided: Sequence[nn.Module],
        up_blocks: Sequence[nn.Module],
    ) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(laterals)
        self.down_blocks = nn.ModuleList(down_blocks)
        self.strided = nn.ModuleList(strided)
        self.up_blocks = nn.ModuleList(up_blocks)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """Join two maps of one size: [B, C, H, W] each -> [B, 2C, H, W]."""
        return torch.cat([x, y], dim=1)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Fuse maps [B, C, H_l, W_l], fine ones first, into maps of the same shapes."""
        coarse_first = [maps[-1]]
        for lateral, block, finer in zip(self.laterals, self.down_blocks, reversed(maps[:-1]), strict=True):
            coarse_first[-1] = lateral(coarse_first[-1])
            larger = F.interpolate(coarse_first[-1], size=finer.shape[-2:], mode="nearest")
            coarse_first.append(block(self.join(larger, finer)))
        fused = [coarse_first.pop()]
        for strided, block in zip(self.strided, self.up_blocks, strict=True):
            fused.append(block(self.join(strided(fused[-1]), coarse_first.pop())))
        return fused


class SummedFusion(PyramidFusion):
    """The same, with maps that are added up rather than joined (DEIMv2, arXiv:2509.20787)."""

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """Add two maps of one size: [B, C, H, W]."""
        return x + y
