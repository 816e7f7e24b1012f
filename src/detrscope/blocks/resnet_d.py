"""ResNet-D: torchvision's ResNet with another stem and other shortcuts."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

RESNETS_D: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet18d": (BasicBlock, [2, 2, 2, 2]),
    "resnet34d": (BasicBlock, [3, 4, 6, 3]),
    "resnet50d": (Bottleneck, [3, 4, 6, 3]),
    "resnet101d": (Bottleneck, [3, 4, 23, 3]),
}
STEM = (3, 32, 32, 64)  # channels before, between and after the three convolutions


def resnet_d(name: str, norm_layer: type[nn.Module]) -> ResNet:
    """Return a ResNet-D with random weights: a stem of three 3x3 convolutions, shortcuts that average, then project.

    He et al. 2018, "Bag of Tricks for Image Classification", arXiv:1812.01187, section 4 and figure 2. As published
    with RT-DETR, the first block of every stage projects its shortcut, also where no size changes.

    Args:
        name: one of `RESNETS_D`.
        norm_layer: class of the norms.
    """
    block, depths = RESNETS_D[name]
    body = ResNet(block, depths, norm_layer=norm_layer)
    for number, (before, width) in enumerate(pairwise(STEM), start=1):
        conv = nn.Conv2d(before, width, 3, stride=2 if number == 1 else 1, padding=1, bias=False)
        setattr(body, f"conv{number}", _initialised(conv))
        setattr(body, f"bn{number}", norm_layer(width))
    for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
        first, width = stage[0], stage[-1].conv1.in_channels
        pool = nn.Identity() if stage is body.layer1 else nn.AvgPool2d(2, 2, ceil_mode=True)
        projection = _initialised(nn.Conv2d(first.conv1.in_channels, width, kernel_size=1, bias=False))
        first.downsample = nn.Sequential(pool, projection, norm_layer(width))
    return body


def _initialised(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
