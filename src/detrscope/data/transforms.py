"""Transforms of decoded images and boxes to the input of a model, in training and in evaluation.

Random numbers come from torch's generator only, so that a seed determines them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from detrscope.config import require_config, setting, settings
from detrscope.core.boxes import xyxy_to_cxcywh
from detrscope.core.preprocessing import Preprocessing, resized_size
from detrscope.core.types import Target
from detrscope.data.batch_draw import BatchDraw
from detrscope.data.mixing import Mixing

ZOOM_FILL = [124, 116, 104]  # ImageNet's mean colour: close to 0 once normalised
Fraction = Annotated[float, Field(ge=0, le=1)]


@settings
class AugmentConfig:
    """Random augmentation of training images. The defaults are DETR's (appendix A.4 and published code)."""

    flip: Fraction = setting(0.5, "chance to mirror left and right")
    vertical_flip: Fraction = setting(
        0.0, "chance to mirror top and bottom; for views from above, such as microscopes"
    )
    sizes: tuple[PositiveInt, ...] = setting(
        tuple(range(480, 801, 32)),
        "short sides to draw from, in pixels; with data.square, sides of all images of a batch; empty: always the size"
        " of evaluation",
    )
    long_side: PositiveInt = setting(1333, "most pixels of the long side after the resize to one of `sizes`")
    crop: Fraction = setting(0.5, "chance of a random crop before the resize")
    crop_sizes: tuple[PositiveInt, ...] = setting(
        (400, 500, 600), "short sides to draw from before that crop; empty: crop the image as it is"
    )
    crop_min: PositiveInt = setting(384, "smallest side of the crop in pixels")
    crop_max: int = setting(600, "largest side of the crop in pixels")
    zoom: tuple[PositiveFloat, PositiveFloat] = setting(
        (1.0, 1.0), "magnification to draw from; below 1 leaves a border"
    )
    aspect: float = setting(1.0, "most stretch of width against height, either way; 1.1 is 10 %", ge=1)
    brightness: Fraction = setting(0.0, "brightness is multiplied by 1 - x to 1 + x")
    contrast: Fraction = setting(0.0, "contrast is multiplied by 1 - x to 1 + x")
    saturation: Fraction = setting(0.0, "saturation is multiplied by 1 - x to 1 + x")
    hue: float = setting(0.0, "hue is turned by -x to x; 0.5 is half the circle", ge=0, le=0.5)
    photometric: Fraction = setting(
        0.0, "chance of each of SSD's distortions of colour (arXiv:1512.02325), instead of the four above"
    )
    zoom_out: Fraction = setting(
        0.0, "chance to place the image on a black canvas of 1 to 4 times its sides, as SSD does"
    )
    iou_crop: Fraction = setting(
        0.0, "chance of SSD's crop, which overlaps the boxes by a drawn IoU; boxes stay whose centres do"
    )
    mosaic: Fraction = setting(0.0, "chance to join an image with three drawn ones around a point (YOLOv4)")
    mosaic_side: PositiveInt = setting(320, "most pixels of an image's sides in a mosaic")
    mixup: Fraction = setting(
        0.0, "chance to blend an image half and half with another and keep both's boxes; needs data.square"
    )
    copy_paste: Fraction = setting(
        0.0,
        "chance to paste objects of another image, by their masks where these are learned, else by their boxes",
    )
    stop_epoch: PositiveInt | None = setting(
        None,
        "first epoch without photometric, zoom_out, iou_crop, mosaic, mixup, copy_paste and sizes, so that the model"
        " ends on images as they are; null: none",
    )

    @property
    def mixing(self) -> Mixing | None:
        """Chances to make an image of several; None where there are none."""
        if not (self.mosaic or self.mixup or self.copy_paste):
            return None
        return Mixing(self.mosaic, self.mosaic_side, self.mixup, self.copy_paste)

    def __post_init__(self) -> None:
        require_config(
            self.crop_min <= self.crop_max, "crop_min", self.crop_min, f"1..crop_max ({self.crop_max})"
        )
        require_config(self.zoom[0] <= self.zoom[1], "zoom", self.zoom, "two numbers, the smaller first")

    @classmethod
    def none(cls) -> AugmentConfig:
        """Return no augmentation: training images are those of evaluation."""
        return cls(flip=0.0, sizes=(), crop=0.0)


class EvalTransform:
    """Resize and normalise, exactly as `preprocessing.apply`: the transform of evaluation and detection."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(
        self, image: Tensor, boxes_xyxy: Tensor, labels: Tensor, masks: Tensor | None = None
    ) -> tuple[Tensor, Target]:
        """Transform uint8 [3, H, W], [M, 4] pixels, [M], masks uint8 [M, H, W] -> float32 [3, h, w], target."""
        target = _target(boxes_xyxy, labels, image.shape[-2], image.shape[-1])
        prepared = self.preprocessing.apply(image)
        if masks is not None:
            target = replace(target, masks=F.resize_mask(masks, list(prepared.shape[-2:])) > 0)
        return prepared, target


class TrainTransform:
    """Augment and normalise: colour, flips, zoom, and a resize with or without a crop before it.

    Boxes and masks follow the pixels and are cut at the border. A box is kept as long as some of its area is left, as
    in DETR; with none left the target is empty, which is valid.
    """

    def __init__(self, augment: AugmentConfig, preprocessing: Preprocessing) -> None:
        self.augment, self.preprocessing = augment, preprocessing
        self.steps = v2.Compose(_steps(augment, preprocessing))

    def for_batch(self, draw: BatchDraw) -> TrainTransform:
        """Return the transform of the images of one batch."""
        augment, preprocessing = self.augment, self.preprocessing
        if not draw.strong:
            augment = replace(augment, photometric=0.0, zoom_out=0.0, iou_crop=0.0)
        if draw.side is not None:
            preprocessing = replace(preprocessing, box=(draw.side, draw.side))
        return TrainTransform(augment, preprocessing)

    def __call__(
        self, image: Tensor, boxes_xyxy: Tensor, labels: Tensor, masks: Tensor | None = None
    ) -> tuple[Tensor, Target]:
        """Transform an image; the target has at most M boxes.

        Args:
            image: uint8 [3, H, W].
            boxes_xyxy: [M, 4] pixels.
            labels: [M].
            masks: uint8 [M, H, W] of 0 and 1.
        """
        canvas = (image.shape[-2], image.shape[-1])
        boxes = tv_tensors.BoundingBoxes(boxes_xyxy.float(), format="XYXY", canvas_size=canvas)
        more = () if masks is None else (tv_tensors.Mask(masks),)
        pixels, boxes, *moved = self.steps(tv_tensors.Image(image), boxes, *more)
        pixels, xyxy = pixels.as_subclass(Tensor), boxes.as_subclass(Tensor)
        valid = (xyxy[:, 2:] > xyxy[:, :2]).all(dim=1)  # [M]
        target = _target(xyxy[valid], labels[valid], pixels.shape[-2], pixels.shape[-1])
        if moved:
            target = replace(target, masks=moved[0].as_subclass(Tensor)[valid] > 0)
        # Resizing is fastest with the colours of a pixel side by side, everything after it plane by plane.
        return self.preprocessing.normalise(pixels.contiguous()), target


def _steps(augment: AugmentConfig, preprocessing: Preprocessing) -> list[Any]:
    resize: Any
    if preprocessing.box is not None:
        resize = v2.Resize(preprocessing.box, antialias=True)
    elif augment.sizes:
        resize = _ShortSide(augment.sizes, augment.long_side)
    else:
        resize = _ShortSide([preprocessing.short_side], preprocessing.long_side)
    cropped: list[Any] = [_Crop(augment.crop_min, augment.crop_max), resize]
    if augment.crop_sizes:
        cropped.insert(0, _ShortSide(augment.crop_sizes, None))
    steps: list[Any] = []
    if augment.brightness or augment.contrast or augment.saturation or augment.hue:
        steps.append(v2.ColorJitter(augment.brightness, augment.contrast, augment.saturation, augment.hue))
    if augment.photometric:
        steps.append(v2.RandomPhotometricDistort(p=augment.photometric))
    if augment.zoom_out:
        steps.append(v2.RandomZoomOut(fill=0, p=augment.zoom_out))
    if augment.iou_crop:  # the boxes that it drops become points, which are dropped at the end
        steps.append(v2.RandomApply([v2.RandomIoUCrop()], p=augment.iou_crop))
    if augment.flip:
        steps.append(v2.RandomHorizontalFlip(augment.flip))
    if augment.vertical_flip:
        steps.append(v2.RandomVerticalFlip(augment.vertical_flip))
    if augment.zoom != (1.0, 1.0) or augment.aspect != 1.0:
        steps.append(_Zoom(augment.zoom, augment.aspect))
    if augment.crop:
        steps.append(v2.RandomChoice([resize, v2.Compose(cropped)], p=[1 - augment.crop, augment.crop]))
    else:
        steps.append(resize)
    return steps


# Plain callables in place of `v2.Transform`: all inputs of a sample share one draw, and the first one is the image.


class _ShortSide:
    """Resize to a short side drawn from a list, with the rounding of evaluation."""

    def __init__(self, sizes: Sequence[int], long_side: int | None) -> None:
        self.sizes = tuple(sizes)
        self.long_side = long_side

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        height, width = inputs[0].shape[-2:]
        short = self.sizes[_randint(len(self.sizes))]
        size = resized_size(height, width, short, self.long_side or short * max(height, width))
        if size == (height, width):
            return inputs
        return tuple(F.resize(part, list(size), antialias=True) for part in inputs)


class _Crop:
    """Crop to a window with sides drawn from `smallest` to `largest`, at most those of the image."""

    def __init__(self, smallest: int, largest: int) -> None:
        self.smallest, self.largest = smallest, largest

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        size = inputs[0].shape[-2:]
        window = []
        for side in size:
            low, high = min(self.smallest, side), min(self.largest, side)
            window.append(low + _randint(high - low + 1))
        top, left = (_randint(side - part + 1) for side, part in zip(size, window, strict=True))
        return tuple(F.crop(part, top, left, *window) for part in inputs)


class _Zoom:
    """Magnify or shrink about a random point, with a random stretch; the image keeps its size."""

    def __init__(self, zoom: tuple[float, float], aspect: float) -> None:
        self.zoom, self.aspect = zoom, aspect

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        height, width = inputs[0].shape[-2:]
        scale = math.exp(_uniform(math.log(self.zoom[0]), math.log(self.zoom[1])))
        stretch = math.exp(_uniform(-math.log(self.aspect), math.log(self.aspect)) / 2)
        window_h = max(1, round(height / scale * stretch))
        window_w = max(1, round(width / scale / stretch))
        top = math.floor(_uniform(min(0, height - window_h), max(0, height - window_h)) + 0.5)
        left = math.floor(_uniform(min(0, width - window_w), max(0, width - window_w)) + 0.5)
        outside = (-left, -top, left + window_w - width, top + window_h - height)
        border = [max(0, side) for side in outside]
        if any(border):
            inputs = tuple(
                F.pad(part, border, fill=0 if isinstance(part, tv_tensors.Mask) else ZOOM_FILL)
                for part in inputs
            )
        window = (top + border[1], left + border[0], window_h, window_w)
        return tuple(F.resized_crop(part, *window, [height, width], antialias=True) for part in inputs)


def _target(boxes_xyxy: Tensor, labels: Tensor, height: int, width: int) -> Target:
    scale = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes = xyxy_to_cxcywh(boxes_xyxy.float() / scale)
    return Target(labels=labels, boxes_cxcywh=boxes.clamp(0, 1))


def _randint(count: int) -> int:
    return int(torch.randint(count, ()))


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))
