"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation and with ReLU6, made for CPUs and small devices."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from detrscope.blocks.backbone import NORMS, NormKind, ResidualBackbone, Step, convolution_step
from detrscope.core.errors import UserError
from detrscope.core.probe import Probe

SIZES = (0, 1, 2)
STAGES = ((0, 1), (2,), (3, 4), (5, 6))  # timm's groups of blocks that give strides 4, 8, 16, 32
SEPARABLE = (("conv_dw", "bn1"), ("conv_pw", "bn2"))
INVERTED = (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3"))


def efficientnet_lite(size: int) -> Any:
    """Return timm's EfficientNet-Lite0, 1 or 2, a classifier with random weights.

    Raises:
        UserError: timm is not installed.
    """
    try:
        import timm
    except ImportError:
        raise UserError(
            f"backbone EfficientNet-Lite{size} needs timm: pip install 'detrscope[pretrained]'"
        ) from None
    return timm.create_model(f"tf_efficientnet_lite{size}", pretrained=False)


class EfficientNetLiteBackbone(ResidualBackbone):
    """EfficientNet-Lite of the timm library without its classifier (Tan & Le 2019, arXiv:1905.11946).

    Args:
        size: 0, 1 or 2 of EfficientNet-Lite0, 1, 2.
        stages: which of its stages (strides 4, 8, 16, 32) give a map; those after the last are left out.
        norm: "frozen" batch norm (fixed statistics and affine) or "trainable".
    """

    def __init__(self, size: int, stages: tuple[int, ...], norm: NormKind) -> None:
        super().__init__()
        network = efficientnet_lite(size)
        for module in list(network.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.BatchNorm2d):  # timm's, which apply the activation themselves
                    setattr(module, name, NORMS[norm](child.num_features, eps=child.eps))
        self.size = size
        self.conv1: nn.Conv2d = network.conv_stem
        self.bn1: nn.Module = network.bn1
        self.layers = nn.ModuleList(
            nn.Sequential(*chain.from_iterable(network.blocks[group] for group in groups))
            for groups in STAGES[: max(stages)]
        )
        self.stages = stages
        self.channels = tuple(self._width(stage) for stage in stages)

    def parts(self) -> tuple[Any, list[nn.Module]]:
        """Return the backbone itself and its stages."""
        return self, list(self.layers)

    def stem(self, x: Tensor, probe: Probe | None) -> Tensor:
        """[B, 3, H, W] -> [B, 32, H/2, W/2]; the first stage halves the size once more."""
        return convolution_step("conv1", _padded(x, self.conv1), self.conv1, self.bn1, probe, "relu6")

    def residual_block(self, name: str, block: Any, x: Tensor, probe: Probe | None) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W']: expand, depthwise, project; the shortcut is added to the projection."""
        shortcut = x if block.has_skip else None
        *first, last = [Step(block, conv, norm) for conv, norm in self.pairs(block)]
        for _, conv, norm in first:
            convolution = getattr(block, conv)
            x = convolution_step(
                f"{name}.{conv}", _padded(x, convolution), convolution, getattr(block, norm), probe, "relu6"
            )
        _, conv, norm = last
        project = getattr(block, conv), getattr(block, norm)
        return convolution_step(f"{name}.{conv}", x, *project, probe, "none", residual=shortcut)

    def pairs(self, block: Any) -> tuple[tuple[str, str], ...]:
        """Return the attributes of a block that hold its convolutions and their norms, in order."""
        return INVERTED if hasattr(block, "conv_pwl") else SEPARABLE

    def freeze_depthwise(self) -> None:
        """Freeze the depthwise kernels: 6% of the parameters, whose gradient is half of a training step on a CPU."""
        for name, parameter in self.named_parameters():
            if "conv_dw." in name:
                parameter.requires_grad_(False)

    def _width(self, stage: int) -> int:
        last = list(self.layers[stage - 1].children())[-1]
        return int(getattr(last, self.pairs(last)[-1][0]).out_channels)


def _padded(x: Tensor, conv: Any) -> Tensor:
    """Pad the input of a strided convolution as TensorFlow pads maps of even size, which the weights expect.

    TensorFlow pads a map of odd size at its other side too, so that features shift by a pixel with the size of the
    image or of the batch. Here every map is padded alike; its size is halved and rounded up in either case.
    """
    if conv.stride == (1, 1):
        return x  # padded by the convolution
    before = (conv.kernel_size[0] - 2) // 2
    after = conv.kernel_size[0] - 1 - before
    return F.pad(x, (before, after, before, after))
