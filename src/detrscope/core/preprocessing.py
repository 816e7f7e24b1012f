"""Resize and normalisation of images; stored in every checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from detrscope.core.errors import UserError
from detrscope.core.json_schema import StrictModel, validate

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_SIDE = 1 << 16  # pixels

Fit = Literal["sides", "within", "exact", "none"]
Filter = Literal["nearest", "bilinear", "bicubic"]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]


@dataclass(frozen=True)
class Preprocessing:
    """Resize and normalisation of an image.

    By default the short side becomes `short_side`, less where the long side would exceed `long_side`.

    Attributes:
        short_side: short side in pixels, for the fit "sides".
        long_side: maximum long side in pixels, for the fit "sides".
        mean: mean of RGB in 0..1.
        std: standard deviation of RGB in 0..1.
        fit: "sides" as above; "within": as large as fits in `box`, with the same aspect ratio; "exact": stretched to
            `box`; "none": not resized.
        box: height and width for the fits "within" and "exact".
        filter: interpolation of the resize.
        antialias: whether it smooths where the image shrinks; Hugging Face's processor of RF-DETR does not.
    """

    short_side: int = 800
    long_side: int = 1333
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    fit: Fit = "sides"
    box: tuple[int, int] | None = None
    filter: Filter = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        if (self.box is not None) != (self.fit in ("within", "exact")):
            raise UserError(f"fit '{self.fit}' {'needs a box' if self.box is None else 'has no box'}")

    def describe(self) -> str:
        """Return the resize and the normalisation in words."""
        size = f"sides of {self.short_side} to {self.long_side} pixels"
        if self.box is not None:
            size = (
                f"{'stretched to' if self.fit == 'exact' else 'within'} {self.box[1]} x {self.box[0]} pixels"
            )
        elif self.fit == "none":
            size = "no resize"
        imagenet = (self.mean, self.std) == (IMAGENET_MEAN, IMAGENET_STD)
        norm = "ImageNet's mean and deviation" if imagenet else f"mean {self.mean} and deviation {self.std}"
        return f"{size}{'' if self.antialias else ' without antialiasing'}, {norm}"

    def with_resize_of(self, other: Preprocessing) -> Preprocessing:
        """Return the same normalisation with another's resize, as in training."""
        return replace(other, mean=self.mean, std=self.std)

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width after the resize, at least one pixel."""
        if self.fit == "none":
            return height, width
        if self.box is None:
            return resized_size(height, width, self.short_side, self.long_side)
        if self.fit == "exact":
            return self.box
        scale = min(self.box[0] / height, self.box[1] / width)
        return max(1, int(height * scale)), max(1, int(width * scale))

    def apply(self, image: Tensor) -> Tensor:
        """Resize and normalise an image: uint8 [3, H, W] -> float32 [3, h, w]."""
        return self.normalise(self.resize(image))

    def resize(self, image: Tensor) -> Tensor:
        """Resize an image for the model: uint8 [3, H, W] -> uint8 [3, h, w]."""
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as F

        size = self.size_for(image.shape[-2], image.shape[-1])
        if size == tuple(image.shape[-2:]):
            return image
        # torchvision's "nearest" has an old error of half a pixel; "nearest-exact" is what Pillow does.
        mode = InterpolationMode("nearest-exact" if self.filter == "nearest" else self.filter)
        resized: Tensor = F.resize(image, list(size), interpolation=mode, antialias=self.antialias)
        return resized

    def normalise(self, image: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation: uint8 [..., 3, H, W] -> float32 [..., 3, H, W]."""
        mean = torch.tensor(self.mean, device=image.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=image.device).view(3, 1, 1)
        # A copy, which the operations below change in place: three fewer passes over the memory.
        pixels = image.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        return pixels.div_(255).sub_(mean).div_(std)

    def denormalise(self, image: Tensor) -> Tensor:
        """Invert `normalise`: float [..., 3, H, W] -> uint8 [..., 3, H, W]."""
        mean = torch.tensor(self.mean, device=image.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=image.device).view(3, 1, 1)
        return ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for the card of a checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: object, name: str = "preprocessing") -> Preprocessing:
        """Return the preprocessing that `to_json` wrote.

        Raises:
            UserError: an unknown key, or a value of the wrong type or out of range; the key is named.
        """
        fields: dict[str, Any] = dict(validate(PreprocessingFields, tree, name))
        fields |= {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
        try:
            return cls(**fields)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None


class PreprocessingFields(StrictModel):
    """Preprocessing as JSON in the card of a checkpoint."""

    short_side: Side
    long_side: Side
    mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]
    fit: Fit = "sides"
    box: Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    filter: Filter = "bilinear"
    antialias: bool = True


def resized_size(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """Return height and width with this short side, less where `long_side` would be exceeded (DETR, section 4)."""
    short, long = min(height, width), max(height, width)
    if long / short * short_side > long_side:
        short_side = round(long_side * short / long)
    if short == short_side:
        return height, width
    other = int(short_side * long / short)
    size = (short_side, other) if height <= width else (other, short_side)
    return max(1, size[0]), max(1, size[1])
