"""Backbones: an image to feature maps. ResNets are made of torchvision's blocks, run one by one here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops.misc import FrozenBatchNorm2d

from detrscope.blocks.hgnet import HGNETS, HGNetBackbone
from detrscope.blocks.resnet_d import RESNETS_D, resnet_d
from detrscope.blocks.vit import ViTBackbone
from detrscope.core.errors import UserError, suggest_nearest
from detrscope.core.probe import Probe
from detrscope.ops.convolution import Activation, convolution_and_norm, fold_norm_into_convolution

if TYPE_CHECKING:
    from timm.models import FeatureInfo

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
NormKind = Literal["frozen", "trainable"]
NORMS: dict[str, type[nn.Module]] = {"frozen": FrozenBatchNorm2d, "trainable": nn.BatchNorm2d}


class Step(NamedTuple):
    """A convolution and its norm: attributes of a module."""

    owner: Any
    conv: str
    norm: str


class ResidualBackbone(nn.Module, ABC):
    """Base of residual networks: a strided stem, then stages of residual blocks.

    Attributes:
        stages: which stages give a feature map, 1 being the first.
        channels: of these maps.
    """

    stages: tuple[int, ...]
    channels: tuple[int, ...]

    @abstractmethod
    def parts(self) -> tuple[Any, list[nn.Module]]:
        """Return the module that has the stem (`conv1`, `bn1`, `maxpool`), and the stages of residual blocks."""

    def stem_steps(self) -> list[Step]:
        """Return the convolutions before the pooling."""
        return [Step(self.parts()[0], "conv1", "bn1")]

    def forward(self, images: Tensor, probe: Probe | None = None) -> list[Tensor]:
        """[B, 3, H, W] -> [B, C_l, H_l, W_l] of each requested stage; strides 4, 8, 16 ... (the last kept by DC5)."""
        x = self.stem(images.contiguous(memory_format=torch.channels_last), probe)
        maps = []
        for number, stage in enumerate(self.parts()[1][: max(self.stages)], start=1):
            for index, block in enumerate(_blocks(stage)):
                x = self.residual_block(f"layer{number}.{index}", block, x, probe)
            if number in self.stages:
                maps.append(x)
        return maps

    def stem(self, x: Tensor, probe: Probe | None) -> Tensor:
        """[B, 3, H, W] -> [B, C, H/4, W/4], H/2, W/2 unpooled."""
        for owner, conv, norm in self.stem_steps():
            x = convolution_step(conv, x, getattr(owner, conv), getattr(owner, norm), probe)
        pooled: Tensor = self.parts()[0].maxpool(x)
        return pooled

    def residual_block(self, name: str, block: Any, x: Tensor, probe: Probe | None) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W']: convolutions with norm and ReLU, the shortcut added before the last ReLU."""
        shortcut = x
        if block.downsample is not None:
            *pool, conv, norm = block.downsample
            pooled = pool[0](x) if pool else x
            shortcut = convolution_step(f"{name}.downsample", pooled, conv, norm, probe, "none")
        *first, last = [(key, getattr(block, key), getattr(block, norm)) for key, norm in self.pairs(block)]
        for key, conv, norm in first:
            x = convolution_step(f"{name}.{key}", x, conv, norm, probe)
        key, conv, norm = last
        return convolution_step(f"{name}.{key}", x, conv, norm, probe, residual=shortcut)

    def pairs(self, block: Any) -> tuple[tuple[str, str], ...]:
        """Return the attributes of a block that hold its convolutions and their norms, in order."""
        pairs = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))
        return pairs if isinstance(block, Bottleneck) else pairs[:2]

    def train_stages(self, count: int) -> None:
        """Leave gradients on in the last `count` of stem and stages; freeze the rest."""
        stages = self.parts()[1]
        stem = [getattr(owner, name) for owner, *names in self.stem_steps() for name in names]
        for number, part in enumerate([stem, *([stage] for stage in stages)]):
            for module in part:
                module.requires_grad_(number > len(stages) - count)

    def fold_norms(self) -> None:
        """Multiply every norm into its convolution for good; for inference, since the state dict changes."""
        blocks = [block for stage in self.parts()[1] for block in _blocks(stage)]
        inside = [Step(block, conv, norm) for block in blocks for conv, norm in self.pairs(block)]
        for owner, conv, norm in (*self.stem_steps(), *inside):
            setattr(owner, conv, fold_norm_into_convolution(getattr(owner, conv), getattr(owner, norm)))
            setattr(owner, norm, nn.Identity())
        shortcuts = (getattr(block, "downsample", None) for block in blocks)
        for shortcut in (shortcut for shortcut in shortcuts if shortcut is not None):
            shortcut[-2] = fold_norm_into_convolution(shortcut[-2], shortcut[-1])
            shortcut[-1] = nn.Identity()

    @property
    def feature_sites(self) -> tuple[str, ...]:
        """Convolutions whose feature maps a probe can keep, in order."""
        sites = [f"backbone.{conv}" for _, conv, _ in self.stem_steps()]
        for number, stage in enumerate(self.parts()[1][: max(self.stages)], start=1):
            for index, block in enumerate(_blocks(stage)):
                convs = [conv for conv, _ in self.pairs(block)]
                if getattr(block, "downsample", None) is not None:
                    convs.insert(0, "downsample")
                sites += [f"backbone.layer{number}.{index}.{conv}" for conv in convs]
        return tuple(sites)


class ResNetBackbone(ResidualBackbone):
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
        self.channels = tuple(64 * 2 ** (stage - 1) * body.layer4[0].expansion for stage in stages)

    def parts(self) -> tuple[Any, list[nn.Module]]:
        """Return the network and its four stages."""
        return self.body, [self.body.layer1, self.body.layer2, self.body.layer3, self.body.layer4]


class ResNetDBackbone(ResNetBackbone):
    """A ResNet-D without its classifier."""

    def stem_steps(self) -> list[Step]:
        """Return the three convolutions of the stem."""
        return [Step(self.body, f"conv{number}", f"bn{number}") for number in (1, 2, 3)]


class SlimBackbone(ResidualBackbone):
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
        self.maxpool = nn.Identity()
        self.layers = nn.ModuleList()
        for before, width, depth in zip((stem, *widths), widths, depths, strict=False):
            shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride=2, bias=False), nn.BatchNorm2d(width))
            first = BasicBlock(before, width, stride=2, downsample=shortcut)
            self.layers.append(nn.Sequential(first, *(BasicBlock(width, width) for _ in range(depth - 1))))
        self.stages = stages
        self.channels = tuple(widths[s - 1] for s in stages)

    def parts(self) -> tuple[Any, list[nn.Module]]:
        """Return the backbone itself and its stages."""
        return self, list(self.layers)


class TimmBackbone(nn.Module):
    """A backbone of the timm library that gives feature maps (`timm:NAME`; pip install detrscope[timm])."""

    def __init__(self, name: str, stages: tuple[int, ...], norm: NormKind) -> None:
        super().__init__()
        try:
            import timm
            from timm.utils import model as timm_model
        except ImportError:
            raise UserError(f"backbone timm:{name} needs timm: pip install 'detrscope[timm]'") from None
        if name not in timm.list_models():
            raise UserError(f"timm has no model '{name}'; {suggest_nearest(name, timm.list_models())[:200]}")
        body = timm.create_model(name, pretrained=False, features_only=True)
        wanted = [4 * 2 ** (s - 1) for s in stages]
        info = cast("FeatureInfo", body.feature_info)
        have = info.reduction()
        missing = [stride for stride in wanted if stride not in have]
        if missing:
            raise UserError(f"backbone timm:{name}: stages of strides {missing} are requested; it has {have}")
        self.keep = tuple(have.index(stride) for stride in wanted)
        self.channels = tuple(info.channels()[i] for i in self.keep)
        freeze: Any = timm_model.__dict__["freeze_batch_norm_2d"]
        self.body = freeze(body) if norm == "frozen" else body
        self.feature_sites: tuple[str, ...] = ()

    def forward(self, images: Tensor, probe: Probe | None = None) -> list[Tensor]:
        """[B, 3, H, W] -> [B, C_l, H_l, W_l] of each requested stage."""
        maps = self.body(images.contiguous(memory_format=torch.channels_last))
        return [maps[i] for i in self.keep]

    def train_stages(self, count: int) -> None:
        """Train everything (count 1 to 5) or nothing (0): timm's stages have no common names."""
        self.body.requires_grad_(count > 0)

    def fold_norms(self) -> None:
        """Do nothing: norms are left to timm's own modules."""


ConvBackbone = ResidualBackbone | HGNetBackbone | TimmBackbone
Backbone = ConvBackbone | ViTBackbone


def build_backbone(name: str, *, stages: tuple[int, ...], dilate_last: bool, norm: NormKind) -> ConvBackbone:
    """Build a backbone by name, with random weights.

    Args:
        name: one of `RESNETS`, `RESNETS_D` or `HGNETS`, or `timm:NAME`.
        stages: which stages give a map, 1 to 4.
        dilate_last: DC5: the last stage keeps stride 16 and dilates (DETR, section 4).
        norm: "frozen" batch norm (fixed statistics and affine) or "trainable".

    Raises:
        UserError: unknown name, or dilation of a network that has none.
    """
    is_timm = name.startswith("timm:")
    if not is_timm and name not in (known := (*RESNETS, *RESNETS_D, *HGNETS)):
        raise UserError(f"backbone '{name}' is not known; {suggest_nearest(name, known)} (or timm:NAME)")
    if dilate_last and name not in ("resnet50", "resnet101"):
        raise UserError(f"backbone {name}: dilation (DC5) is for resnet50 and resnet101")
    if name in RESNETS_D:
        return ResNetDBackbone(resnet_d(name, NORMS[norm]), stages)
    if name in HGNETS:
        if max(stages) > (count := len(HGNETS[name].stages)):
            raise UserError(f"backbone {name}: has {count} stages, stage {max(stages)} is requested")
        return HGNetBackbone(name, stages, NORMS[norm])
    if is_timm:
        return TimmBackbone(name.removeprefix("timm:"), stages, norm)
    body = getattr(torchvision.models, name)(
        weights=None, norm_layer=NORMS[norm], replace_stride_with_dilation=[False, False, dilate_last]
    )
    return ResNetBackbone(body, stages)


def _blocks(stage: nn.Module) -> list[Any]:
    """Return the residual blocks of a stage, untyped: torch's types do not know what a Sequential holds."""
    return list(stage.children())


def convolution_step(
    name: str,
    x: Tensor,
    conv: nn.Conv2d,
    norm: nn.Module,
    probe: Probe | None,
    activation: Activation = "relu",
    residual: Tensor | None = None,
) -> Tensor:
    """Run a convolution and its norm; keep the feature map where the probe records the site `backbone.NAME`."""
    x = convolution_and_norm(x, conv, norm, activation, residual)
    if probe is not None and probe.records_features_of(site := f"backbone.{name}"):
        probe.keep_features(site, x)
    return x
