"""Backbones: an image to feature maps. ResNets are torchvision's modules; the walk through them is ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops.misc import FrozenBatchNorm2d

from detrscope.core.errors import UserError, nearest
from detrscope.core.probe import Probe
from detrscope.ops.convolution import conv_norm, fold

if TYPE_CHECKING:
    from timm.models import FeatureInfo

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
NormKind = Literal["frozen", "trainable"]
NORMS: dict[str, type[nn.Module]] = {"frozen": FrozenBatchNorm2d, "trainable": nn.BatchNorm2d}


class ResNetBackbone(nn.Module):
    """A torchvision ResNet without its classifier (He et al. 2015, arXiv:1512.03385).

    Args:
        body: the network.
        stages: which of its four stages give a map (4 is the last).
    """

    def __init__(self, body: ResNet, stages: tuple[int, ...]) -> None:
        super().__init__()
        body.fc = nn.Identity()
        self.body = body
        self.stages = stages
        widths = {1: 64, 2: 128, 3: 256, 4: 512}
        expansion = body.layer4[0].expansion
        self.channels = tuple(widths[s] * expansion for s in stages)

    def forward(self, images: Tensor, probe: Probe | None = None) -> list[Tensor]:
        """[B, 3, H, W] -> one [B, C_l, H_l, W_l] a stage asked for; strides 4, 8, 16, 32 (16 twice with DC5)."""
        body = self.body
        x = images.contiguous(memory_format=torch.channels_last)
        x = _step("conv1", x, body.conv1, body.bn1, probe)  # [B, 64, H/2, W/2]
        x = body.maxpool(x)  # [B, 64, H/4, W/4]
        maps = []
        for number, stage in enumerate((body.layer1, body.layer2, body.layer3, body.layer4), start=1):
            if number > max(self.stages):
                break
            for index, block in enumerate(_blocks(stage)):
                x = _walk(f"layer{number}.{index}", block, x, probe)
            if number in self.stages:
                maps.append(x)
        return maps

    def train_stages(self, count: int) -> None:
        """Leave gradients on in the last `count` of the five parts (stem, stages 1 to 4); the rest is frozen."""
        body = self.body
        parts = [(body.conv1, body.bn1), (body.layer1,), (body.layer2,), (body.layer3,), (body.layer4,)]
        for number, part in enumerate(parts):
            for module in part:
                module.requires_grad_(number >= len(parts) - count)

    def fold_norms(self) -> None:
        """Multiply every norm into its convolution for good. For inference: the state dict changes with it."""
        body = self.body
        body.conv1, body.bn1 = fold(body.conv1, body.bn1), nn.Identity()
        for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
            _fold_blocks(stage)

    @property
    def feature_sites(self) -> tuple[str, ...]:
        """The convolutions whose feature maps a probe can keep, in order."""
        sites = ["backbone.conv1"]
        for number in range(1, max(self.stages) + 1):
            sites += _sites_of(f"backbone.layer{number}", getattr(self.body, f"layer{number}"))
        return tuple(sites)


class SlimBackbone(nn.Module):
    """A narrow residual network for small images: a 3x3 stem of stride 2, then stages at strides 4, 8, 16 and so on.

    Args:
        stem: channels of the stem.
        widths: channels of each stage.
        depths: residual blocks of each stage.
        stages: which stages give a map, 1 being the first.
    """

    def __init__(
        self, stem: int, widths: tuple[int, ...], depths: tuple[int, ...], stages: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(stem)
        self.layers = nn.ModuleList()
        for before, width, depth in zip((stem, *widths), widths, depths, strict=False):
            shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride=2, bias=False), nn.BatchNorm2d(width))
            first = BasicBlock(before, width, stride=2, downsample=shortcut)
            self.layers.append(nn.Sequential(first, *(BasicBlock(width, width) for _ in range(depth - 1))))
        self.stages = stages
        self.channels = tuple(widths[s - 1] for s in stages)

    def forward(self, images: Tensor, probe: Probe | None = None) -> list[Tensor]:
        """[B, 3, H, W] -> one [B, C_l, H_l, W_l] a stage asked for; strides 4, 8, 16 ..."""
        x = images.contiguous(memory_format=torch.channels_last)
        x = _step("conv1", x, self.conv1, self.bn1, probe)  # [B, C, H/2, W/2]
        maps = []
        for number, stage in enumerate(self.layers, start=1):
            for index, block in enumerate(_blocks(stage)):
                x = _walk(f"layer{number}.{index}", block, x, probe)
            if number in self.stages:
                maps.append(x)
        return maps

    def train_stages(self, count: int) -> None:
        """Leave gradients on in the last `count` of stem and stages."""
        parts = [(self.conv1, self.bn1), *((stage,) for stage in self.layers)]
        for number, part in enumerate(parts):
            for module in part:
                module.requires_grad_(number >= len(parts) - count)

    def fold_norms(self) -> None:
        """Multiply every norm into its convolution for good. For inference: the state dict changes with it."""
        self.conv1 = fold(self.conv1, self.bn1)
        self.bn1 = nn.Identity()
        for stage in self.layers:
            _fold_blocks(stage)

    @property
    def feature_sites(self) -> tuple[str, ...]:
        """The convolutions whose feature maps a probe can keep, in order."""
        sites = ["backbone.conv1"]
        for number, stage in enumerate(self.layers, start=1):
            sites += _sites_of(f"backbone.layer{number}", stage)
        return tuple(sites)


class TimmBackbone(nn.Module):
    """Any backbone of the timm library that gives feature maps (`timm:NAME`; pip install detrscope[timm])."""

    def __init__(self, name: str, stages: tuple[int, ...], norm: NormKind) -> None:
        super().__init__()
        try:
            import timm
            from timm.utils.model import freeze_batch_norm_2d
        except ImportError:
            raise UserError(f"backbone timm:{name} needs timm: pip install 'detrscope[timm]'") from None
        if name not in timm.list_models():
            raise UserError(f"timm has no model '{name}'; {nearest(name, timm.list_models())[:200]}")
        body = timm.create_model(name, pretrained=False, features_only=True)
        wanted = [4 * 2 ** (s - 1) for s in stages]
        info = cast("FeatureInfo", body.feature_info)
        have = info.reduction()
        missing = [stride for stride in wanted if stride not in have]
        if missing:
            raise UserError(f"timm:{name} has maps at strides {have}; {missing} asked for")
        self.keep = tuple(have.index(stride) for stride in wanted)
        self.channels = tuple(info.channels()[i] for i in self.keep)
        self.body = freeze_batch_norm_2d(body) if norm == "frozen" else body
        self.feature_sites: tuple[str, ...] = ()

    def forward(self, images: Tensor, probe: Probe | None = None) -> list[Tensor]:
        """[B, 3, H, W] -> one [B, C_l, H_l, W_l] a stage asked for."""
        maps = self.body(images.contiguous(memory_format=torch.channels_last))
        return [maps[i] for i in self.keep]

    def train_stages(self, count: int) -> None:
        """All (count 1 to 5) or nothing (0): timm's stages have no common names."""
        self.body.requires_grad_(count > 0)

    def fold_norms(self) -> None:
        """Left to timm's own modules."""


Backbone = ResNetBackbone | SlimBackbone | TimmBackbone


def build_backbone(name: str, *, stages: tuple[int, ...], dilate_last: bool, norm: NormKind) -> Backbone:
    """A backbone by name, weights random.

    Args:
        name: one of `RESNETS`, or `timm:NAME`.
        stages: which stages give a map, 1 to 4.
        dilate_last: DC5: the last stage keeps stride 16 and dilates (DETR, section 4).
        norm: "frozen" batch norm (fixed statistics and affine) or "trainable".

    Raises:
        UserError: unknown name, or dilation asked of a network that has none.
    """
    if name.startswith("timm:"):
        if dilate_last:
            raise UserError(f"backbone {name}: dilation (DC5) is for resnet50 and resnet101")
        return TimmBackbone(name.removeprefix("timm:"), stages, norm)
    if name not in RESNETS:
        raise UserError(f"backbone '{name}' is not known; {nearest(name, RESNETS)} (or timm:NAME)")
    if dilate_last and name in ("resnet18", "resnet34"):
        raise UserError(f"backbone {name}: dilation (DC5) is for resnet50 and resnet101")
    body = getattr(torchvision.models, name)(
        weights=None, norm_layer=NORMS[norm], replace_stride_with_dilation=[False, False, dilate_last]
    )
    return ResNetBackbone(body, stages)


def _blocks(stage: nn.Module) -> list[Any]:
    """The residual blocks of a stage; torch's types do not know what a Sequential holds."""
    return list(stage.children())


def _fold_blocks(stage: nn.Module) -> None:
    for block in _blocks(stage):
        for conv, norm in _pairs(block):
            setattr(block, conv, fold(getattr(block, conv), getattr(block, norm)))
            setattr(block, norm, nn.Identity())
        if block.downsample is not None:
            block.downsample[0] = fold(block.downsample[0], block.downsample[1])
            block.downsample[1] = nn.Identity()


def _sites_of(name: str, stage: nn.Module) -> list[str]:
    sites = []
    for index, block in enumerate(_blocks(stage)):
        if block.downsample is not None:
            sites.append(f"{name}.{index}.downsample")
        sites += [f"{name}.{index}.{conv}" for conv, _ in _pairs(block)]
    return sites


def _pairs(block: BasicBlock | Bottleneck) -> tuple[tuple[str, str], ...]:
    pairs = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))
    return pairs if isinstance(block, Bottleneck) else pairs[:2]


def _walk(name: str, block: BasicBlock | Bottleneck, x: Tensor, probe: Probe | None) -> Tensor:
    """One residual block: convolutions with norm and ReLU, the shortcut added before the last ReLU."""
    shortcut = x
    if block.downsample is not None:
        conv, norm = block.downsample
        shortcut = _step(f"{name}.downsample", x, conv, norm, probe, relu=False)
    *first, last = [(key, getattr(block, key), getattr(block, norm)) for key, norm in _pairs(block)]
    for key, conv, norm in first:
        x = _step(f"{name}.{key}", x, conv, norm, probe)
    key, conv, norm = last
    return _step(f"{name}.{key}", x, conv, norm, probe, residual=shortcut)


def _step(
    name: str,
    x: Tensor,
    conv: nn.Conv2d,
    norm: nn.Module,
    probe: Probe | None,
    relu: bool = True,
    residual: Tensor | None = None,
) -> Tensor:
    x = conv_norm(x, conv, norm, relu=relu, residual=residual)
    if probe is not None and probe.wants_features(site := f"backbone.{name}"):
        probe.keep_features(site, x)
    return x
