"""Masks of objects: read as polygons and run lengths, moved with the pixels by every transform, missing ones named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detrscope.core.errors import UserError
from detrscope.core.preprocessing import Preprocessing
from detrscope.core.types import Target
from detrscope.data.coco_masks import decode_mask, encode_mask
from detrscope.data.dataset import DetectionDataset, TransformedDataset
from detrscope.data.loader import make_loader
from detrscope.data.object_masks import ObjectMasks
from detrscope.data.open_dataset import open_dataset
from detrscope.data.transforms import AugmentConfig, EvalTransform, TrainTransform

SIZES = ((90, 120), (100, 80), (64, 64))  # height, width
PREPROCESSING = Preprocessing(72, 96, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def polygon(height: int, width: int) -> list[float]:
    return [
        width * x if i % 2 == 0 else height * x
        for i, x in enumerate((0.2, 0.3, 0.7, 0.2, 0.8, 0.8, 0.3, 0.7))
    ]


def write(folder: Path, kinds: tuple[str | None, ...]) -> str:
    """A dataset of white quadrangles on black, one in each image; its mask written as each of some kinds."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number, (kind, (height, width)) in enumerate(zip(kinds, SIZES, strict=True), start=1):
        points = polygon(height, width)
        mask = decode_mask([points], height, width)
        assert mask is not None
        Image.fromarray((mask * 255).astype(np.uint8)).convert("RGB").save(folder / f"images/{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        xs, ys = points[::2], points[1::2]
        box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        row: dict[str, Any] = {"id": number, "image_id": number, "category_id": 1, "bbox": box}
        segmentation: Any = {"polygon": [points], "compressed": encode_mask(mask), None: None}.get(kind)
        if kind == "run lengths":
            flat = mask.T.ravel()
            edges = np.flatnonzero(np.diff(flat)) + 1
            segmentation = {"size": [height, width], "counts": np.diff([0, *edges, flat.size]).tolist()}
        if kind == "damaged":
            segmentation = {"size": [height, width], "counts": [5]}
        row |= {"area": float(mask.sum()), "iscrowd": 0}
        annotations.append(row if segmentation is None else {**row, "segmentation": segmentation})
    tree = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "shape"}]}
    (folder / "annotations.json").write_text(json.dumps(tree))
    return f"coco:{folder}"


KINDS = ("polygon", "run lengths", "compressed")


@pytest.fixture
def shapes(tmp_path: Path) -> DetectionDataset:
    return open_dataset(write(tmp_path / "shapes", KINDS), "train", details=True)


def overlap(image: torch.Tensor, target: Target) -> float:
    """IoU of the masks with the white pixels of the image."""
    assert target.masks is not None and target.masks.dtype == torch.bool
    assert target.masks.shape == (len(target.labels), *image.shape[1:])
    white, mask = image[0] > 0.5, target.masks.any(0)
    return float((white & mask).sum() / (white | mask).sum().clamp(min=1))


def test_every_way_to_write_a_mask_is_read(shapes: DetectionDataset) -> None:
    samples = TransformedDataset(shapes, EvalTransform(PREPROCESSING), masks=ObjectMasks(shapes))
    for index in range(3):
        sample = samples[index]
        assert overlap(sample.image, sample.target) > 0.95, KINDS[index]


PLAIN = {"flip": 0.0, "sizes": (), "crop": 0.0}
AUGMENTS: dict[str, dict[str, Any]] = {
    "flip": {"flip": 1.0},
    "vertical flip": {"vertical_flip": 1.0},
    "resize": {"sizes": (40, 61, 110)},
    "crop": {"crop": 1.0, "crop_sizes": (70, 90), "crop_min": 50, "crop_max": 64},
    "zoom": {"zoom": (0.5, 1.8), "aspect": 1.3},
    "zoom-out": {"zoom_out": 1.0},
    "IoU crop": {"iou_crop": 1.0},
    "mosaic": {"mosaic": 1.0, "mosaic_side": 64},
    "copy-paste": {"copy_paste": 1.0},
    "everything": {
        "flip": 0.5, "vertical_flip": 0.5, "sizes": (40, 61), "crop": 0.5, "crop_sizes": (70,), "crop_min": 50,
        "crop_max": 64, "zoom": (0.5, 1.8), "zoom_out": 0.5, "iou_crop": 0.5, "mosaic": 0.5, "mosaic_side": 64,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", AUGMENTS)
def test_masks_move_with_the_pixels(name: str, shapes: DetectionDataset) -> None:
    augment = AugmentConfig(**{**PLAIN, **AUGMENTS[name]})
    transform = TrainTransform(augment, PREPROCESSING)
    samples = TransformedDataset(shapes, transform, mixing=augment.mixing, masks=ObjectMasks(shapes))
    overlaps = []
    for seed in range(8):
        for index in range(3):
            sample = samples[seed, index]
            assert sample.target.masks is not None
            if sample.target.masks.sum() > 60:  # of fewer pixels, rounding at the border is most
                overlaps.append(overlap(sample.image, sample.target))
    assert len(overlaps) > 10 and min(overlaps) > 0.65 and sum(overlaps) / len(overlaps) > 0.8


def test_mixup_keeps_the_masks_of_both_images(shapes: DetectionDataset) -> None:
    augment = AugmentConfig(**{**PLAIN, "mixup": 1.0})
    square = Preprocessing(fit="exact", box=(64, 64))
    samples = TransformedDataset(
        shapes, TrainTransform(augment, square), mixing=augment.mixing, masks=ObjectMasks(shapes)
    )
    target = samples[0, 0].target
    assert target.masks is not None and target.masks.shape == (2, 64, 64) and target.masks.any((1, 2)).all()


def test_boxes_are_the_same_with_and_without_masks(shapes: DetectionDataset) -> None:
    transform = TrainTransform(AugmentConfig(**AUGMENTS["everything"]), PREPROCESSING)
    plain, masked = (
        TransformedDataset(shapes, transform),
        TransformedDataset(shapes, transform, masks=ObjectMasks(shapes)),
    )
    for seed in range(4):
        one, other = plain[seed, 1], masked[seed, 1]
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.target.boxes_cxcywh, other.target.boxes_cxcywh)
        assert one.target.masks is None


def test_batches_keep_each_image_s_own_masks(shapes: DetectionDataset) -> None:
    samples = TransformedDataset(shapes, EvalTransform(PREPROCESSING), masks=ObjectMasks(shapes))
    batch, targets, _ = next(iter(make_loader(samples, 3, shuffle=False, workers=1)))
    assert batch.padding is not None
    for image, padding, target in zip(batch.images, batch.padding, targets, strict=True):
        assert target.masks is not None
        height, width = target.masks.shape[1:]
        assert not padding[:height, :width].any() and int((~padding).sum()) == height * width
        assert overlap(image[:, :height, :width], target) > 0.95


def test_objects_without_a_mask_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = open_dataset(write(tmp_path / "some", ("polygon", None, "damaged")), "train", details=True)
    samples = TransformedDataset(dataset, EvalTransform(PREPROCESSING), masks=ObjectMasks(dataset))
    assert "2 of 3 objects have no mask" in caplog.text
    for index, present in enumerate((True, False, False)):
        target = samples[index].target
        assert target.masks is not None and bool(target.masks.any()) == present and len(target.labels) == 1


def test_data_without_any_mask_are_refused(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path / "none", (None, None, None)), "train", details=True)
    with pytest.raises(UserError, match="none of its 3 objects has a mask"):
        ObjectMasks(dataset)
