"""From the pixels of a file to what the model sees; stored in every checkpoint so that nobody has to remember it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Resize so that the short side is `short_side` unless the long side would exceed `long_side`; then normalise."""

    short_side: int = 800
    long_side: int = 1333
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of RGB in 0..1
    std: tuple[float, float, float] = IMAGENET_STD

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the resize, the aspect ratio kept, at least one pixel."""
        return resized_size(height, width, self.short_side, self.long_side)

    def apply(self, image: Tensor) -> Tensor:
        """Resized and normalised. uint8 [3, H, W] -> float32 [3, h, w]."""
        return self.normalise(self.resize(image))

    def resize(self, image: Tensor) -> Tensor:
        """To the size that the model sees. uint8 [3, H, W] -> uint8 [3, h, w]."""
        from torchvision.transforms.v2 import functional as F

        size = self.size_for(image.shape[-2], image.shape[-1])
        return image if size == tuple(image.shape[-2:]) else F.resize(image, list(size), antialias=True)

    def normalise(self, image: Tensor) -> Tensor:
        """uint8 [..., 3, H, W] -> float32 [..., 3, H, W] with the mean taken off and divided by the deviation."""
        mean = torch.tensor(self.mean, device=image.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=image.device).view(3, 1, 1)
        own = image.to(
            torch.float32, memory_format=torch.contiguous_format, copy=True
        )  # changed in place below
        return own.div_(255).sub_(mean).div_(std)

    def denormalise(self, image: Tensor) -> Tensor:
        """The inverse of `normalise`: float [..., 3, H, W] -> uint8 [..., 3, H, W]."""
        mean = torch.tensor(self.mean, device=image.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=image.device).view(3, 1, 1)
        return ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    def to_json(self) -> dict[str, Any]:
        """Plain dict for the card of a checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_json`."""
        return cls(tree["short_side"], tree["long_side"], tuple(tree["mean"]), tuple(tree["std"]))


def resized_size(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """Short side to `short_side`, less where the long side would pass `long_side` (DETR, section 4)."""
    short, long = min(height, width), max(height, width)
    if long / short * short_side > long_side:
        short_side = round(long_side * short / long)
    if short == short_side:
        return height, width
    other = int(short_side * long / short)
    size = (short_side, other) if height <= width else (other, short_side)
    return max(1, size[0]), max(1, size[1])
