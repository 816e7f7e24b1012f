"""ImageNet weights of ResNet-D, as timm publishes them (Apache 2.0), under the names of our modules."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

URL = "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights/"
FILES = {  # whose names end in the first digits of the SHA-256
    "resnet18": "resnet18d_ra2-48a79e06.pth",
    "resnet34": "resnet34d_ra2-f8dcfcaf.pth",
    "resnet50": "resnet50d_ra2-464e36ba.pth",
    "resnet101": "resnet101d_ra2-2803ffab.pth",
}
STEM = {
    "conv1.0": "conv1",
    "conv1.1": "bn1",
    "conv1.3": "conv2",
    "conv1.4": "bn2",
    "conv1.6": "conv3",
    "bn1": "bn3",
}
MARK = "conv1.0.weight"


def rename_timm_resnet_d(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename timm's tensors of a ResNet-D.

    Its basic blocks pass the first stage's input on as it is, where RT-DETR's project it: the projection becomes the
    identity, so that the network computes the same.
    """
    renamed = {}
    for key, tensor in state.items():
        found = re.match(r"(conv1\.\d|bn1)\.(.*)", key)
        renamed[f"{STEM[found[1]]}.{found[2]}" if found and found[1] in STEM else key] = tensor
    first = "layer1.0.downsample."
    if f"{first}1.weight" not in renamed:
        width = len(renamed["conv3.weight"])
        renamed[f"{first}1.weight"] = torch.eye(width)[:, :, None, None]
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            renamed[f"{first}2.{name}"] = torch.full((width,), value)
    return renamed
