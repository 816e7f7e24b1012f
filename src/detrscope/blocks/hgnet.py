"""HGNetV2, the convolutional backbone of D-FINE and DEIMv2 (PaddleClas' PP-HGNetV2; timm has the same networks).

Written with our convolutions rather than timm's: they fold and fuse their norms, every map can be recorded, and timm
lacks the smallest networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrscope.blocks.fusion import ConvNorm
from detrscope.core.probe import Probe
from detrscope.ops.convolution import Activation, Floor


class Stage(NamedTuple):
    """Sizes of a stage of blocks."""

    channels: int  # incoming
    hidden: int  # of the convolutions inside a block
    width: int  # outgoing
    blocks: int
    light: bool  # each convolution inside is a 1x1 and a depthwise one
    size: int  # side of the kernels inside
    layers: int  # convolutions inside a block


class Sizes(NamedTuple):
    """Sizes of a network."""

    stem: tuple[int, int]
    stages: tuple[Stage, ...]
    affine: bool  # whether a learned scale and shift follow every ReLU


_SMALL = (Stage(16, 16, 64, 1, False, 3, 3), Stage(64, 32, 256, 1, False, 3, 3))
HGNETS: dict[str, Sizes] = {
    "hgnetv2_atto": Sizes((16, 16), (*_SMALL, Stage(256, 64, 256, 1, True, 3, 3)), True),
    "hgnetv2_femto": Sizes((16, 16), (*_SMALL, Stage(256, 64, 512, 1, True, 5, 3)), True),
    "hgnetv2_pico": Sizes((16, 16), (*_SMALL, Stage(256, 64, 512, 2, True, 5, 3)), True),
    "hgnetv2_b0": Sizes(
        (16, 16), (*_SMALL, Stage(256, 64, 512, 2, True, 5, 3), Stage(512, 128, 1024, 1, True, 5, 3)), True
    ),
    "hgnetv2_b2": Sizes(
        (24, 32),
        (
            Stage(32, 32, 96, 1, False, 3, 4),
            Stage(96, 64, 384, 1, False, 3, 4),
            Stage(384, 128, 768, 3, True, 5, 4),
            Stage(768, 256, 1536, 1, True, 5, 4),
        ),
        True,
    ),
    "hgnetv2_b4": Sizes(
        (32, 48),
        (
            Stage(48, 48, 128, 1, False, 3, 6),
            Stage(128, 96, 512, 1, False, 3, 6),
            Stage(512, 192, 1024, 3, True, 5, 6),
            Stage(1024, 384, 2048, 1, True, 5, 6),
        ),
        False,
    ),
    "hgnetv2_b5": Sizes(
        (32, 64),
        (
            Stage(64, 64, 128, 1, False, 3, 6),
            Stage(128, 128, 512, 2, False, 3, 6),
            Stage(512, 256, 1024, 5, True, 5, 6),
            Stage(1024, 512, 2048, 2, True, 5, 6),
        ),
        False,
    ),
}


class HGConv(ConvNorm):
    """Convolution, norm and ReLU (or no activation), whose map a probe can keep."""

    feature_site = ""  # named after the path by the backbone

    def __init__(
        self,
        channels: int,
        width: int,
        size: int = 1,
        stride: int = 1,
        activation: Activation = "relu",
        groups: int = 1,
    ) -> None:
        super().__init__(channels, width, size, stride, activation, groups)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def compute(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W']."""
        return super().forward(x)

    def forward(self, x: Tensor, probe: Probe | None = None) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W']."""
        x = self.compute(x)
        if probe is not None and probe.records_features_of(self.feature_site):
            probe.keep_features(self.feature_site, x)
        return x


class AffineHGConv(HGConv):
    """Convolution, norm and ReLU, then a learned scale and a learned shift, one number each."""

    def __init__(self, channels: int, width: int, size: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, width, size, stride, groups=groups)
        self.scale = nn.Parameter(torch.ones(1))
        self.shift = nn.Parameter(torch.zeros(1))

    def compute(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W']."""
        x = super().compute(x)
        if isinstance(self.activation, Floor):
            return x
        return torch.addcmul(self.shift.to(x.dtype), x, self.scale.to(x.dtype))

    def fold_norms(self) -> None:
        """Multiply the norm, and a positive scale, into the convolution: s max(x, 0) + t = max(s x + t, t)."""
        super().fold_norms()
        if float(self.scale.detach()) > 0 and self.activation == "relu":
            with torch.no_grad():
                weight, bias = (
                    self.conv.weight * self.scale,
                    self.shift.expand(self.conv.out_channels).clone(),
                )
                if self.conv.bias is not None:
                    bias = bias + self.conv.bias * self.scale
            self.conv.weight = nn.Parameter(weight, requires_grad=False)
            self.conv.bias = nn.Parameter(bias, requires_grad=False)
            self.activation = Floor(float(self.shift.detach()))


class LightHGConv(nn.Module):
    """A 1x1 convolution, then a depthwise one with activation."""

    def __init__(self, channels: int, width: int, size: int, activated: type[HGConv]) -> None:
        super().__init__()
        self.conv1 = HGConv(channels, width, activation="none")
        self.conv2 = activated(width, width, size, groups=width)

    def forward(self, x: Tensor, probe: Probe | None) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W]."""
        y: Tensor = self.conv2(self.conv1(x, probe), probe)
        return y


class HGStem(nn.Module):
    """Convolutions of a quarter of the image's size, with a pooled branch beside two of 2x2."""

    def __init__(self, middle: int, width: int, activated: type[HGConv]) -> None:
        super().__init__()
        self.stem1 = activated(3, middle, 3, 2)
        self.stem2a = activated(middle, middle // 2, 2)
        self.stem2b = activated(middle // 2, middle, 2)
        self.stem3 = activated(2 * middle, middle, 3, 2)
        self.stem4 = activated(middle, width)

    def forward(self, images: Tensor, probe: Probe | None) -> Tensor:
        """[B, 3, H, W] -> [B, C, H/4, W/4]."""
        x = F.pad(self.stem1(images, probe), (0, 1, 0, 1))
        rows = torch.maximum(x[..., :-1, :], x[..., 1:, :])
        pooled = torch.maximum(
            rows[..., :-1], rows[..., 1:]
        )  # 2x2 with stride 1, in half the time of max_pool2d
        x = F.pad(self.stem2a(x, probe), (0, 1, 0, 1))
        x = torch.cat([pooled, self.stem2b(x, probe)], dim=1)
        y: Tensor = self.stem4(self.stem3(x, probe), probe)
        return y


class HGBlock(nn.Module):
    """Convolutions whose maps are joined, squeezed and widened; blocks after a stage's first are residual."""

    def __init__(self, stage: Stage, number: int, activated: type[HGConv]) -> None:
        super().__init__()
        self.is_residual = number > 0
        channels = stage.width if self.is_residual else stage.channels
        before = [channels, *[stage.hidden] * (stage.layers - 1)]
        self.layers = nn.ModuleList(
            LightHGConv(c, stage.hidden, stage.size, activated)
            if stage.light
            else activated(c, stage.hidden, stage.size)
            for c in before
        )
        joined = channels + stage.layers * stage.hidden
        half = stage.width // 2
        self.aggregation = nn.ModuleList([activated(joined, half), activated(half, stage.width)])

    def forward(self, x: Tensor, probe: Probe | None) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W]."""
        maps = [x]
        for layer in self.layers:
            maps.append(layer(maps[-1], probe))
        y = torch.cat(maps, dim=1)
        for conv in self.aggregation:
            y = conv(y, probe)
        return torch.add(y, x) if self.is_residual else y


class HGStage(nn.Module):
    """Blocks of one size of map."""

    def __init__(self, stage: Stage, activated: type[HGConv]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(HGBlock(stage, number, activated) for number in range(stage.blocks))

    def forward(self, x: Tensor, probe: Probe | None) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W']."""
        for block in self.blocks:
            x = block(x, probe)
        return x


class StridedHGStage(HGStage):
    """Blocks after a depthwise convolution that halves the map."""

    def __init__(self, stage: Stage, activated: type[HGConv]) -> None:
        super().__init__(stage, activated)
        c = stage.channels
        self.downsample = HGConv(c, c, 3, 2, "none", groups=c)

    def forward(self, x: Tensor, probe: Probe | None) -> Tensor:
        """[B, C, H, W] -> [B, C', H/2, W/2]."""
        return super().forward(self.downsample(x, probe), probe)


class HGNet(nn.Module):
    """Stem and stages; parameters are named nearly as in timm."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        activated = AffineHGConv if sizes.affine else HGConv
        first, *others = sizes.stages
        self.stem = HGStem(*sizes.stem, activated)
        self.stages = nn.ModuleList(
            [HGStage(first, activated), *(StridedHGStage(stage, activated) for stage in others)]
        )


class HGNetBackbone(nn.Module):
    """HGNetV2 without its classifier.

    Args:
        name: one of `HGNETS`.
        stages: which of its stages give a map, 1 being the first.
        norm_layer: class of the norms.
    """

    def __init__(self, name: str, stages: tuple[int, ...], norm_layer: Callable[[int], nn.Module]) -> None:
        super().__init__()
        sizes = HGNETS[name]
        self.name = name
        self.body = HGNet(sizes)
        self.stages = stages
        self.channels = tuple(sizes.stages[stage - 1].width for stage in stages)
        for path, conv in self.convolutions():
            conv.feature_site = f"backbone.{path}"
            conv.norm = norm_layer(conv.conv.out_channels)

    def convolutions(self) -> list[tuple[str, HGConv]]:
        """Return the convolutions and their paths in the network."""
        return [(path, m) for path, m in self.body.named_modules() if isinstance(m, HGConv)]

    def forward(self, images: Tensor, probe: Probe | None = None) -> list[Tensor]:
        """[B, 3, H, W] -> [B, C_l, H_l, W_l] of each requested stage; strides 4, 8, 16, 32."""
        x = self.body.stem(images.contiguous(memory_format=torch.channels_last), probe)
        maps = []
        for number, stage in enumerate(self.body.stages, start=1):
            x = stage(x, probe)
            if number in self.stages:
                maps.append(x)
        return maps

    def train_stages(self, count: int) -> None:
        """Leave gradients on in the last `count` of stem and stages; freeze the rest."""
        parts: Sequence[nn.Module] = [self.body.stem, *self.body.stages]
        for number, part in enumerate(parts, start=1):
            part.requires_grad_(number > len(parts) - count)

    @property
    def feature_sites(self) -> tuple[str, ...]:
        """Convolutions whose feature maps a probe can keep, in the order of the network."""
        return tuple(conv.feature_site for _, conv in self.convolutions())
