"""Square images of one size in a batch, strong augmentation that ends, mosaics and blends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from detrscope.core.boxes import cxcywh_to_xyxy, scale_boxes
from detrscope.core.errors import UserError
from detrscope.core.preprocessing import Preprocessing
from detrscope.core.types import Target
from detrscope.data.batch_draw import BatchDraw, BatchDraws, ImageKey
from detrscope.data.dataset import DetectionDataset, TransformedDataset
from detrscope.data.loader import Collated, make_loader
from detrscope.data.open_dataset import open_dataset
from detrscope.data.transforms import AugmentConfig, TrainTransform
from detrscope.training.config import resolve_training_config
from tests.support.datasets import MakeDataset

SQUARE = Preprocessing(fit="exact", box=(64, 64))
SIDES = (48, 64, 96)
STRONG = AugmentConfig(
    flip=0.0,
    sizes=SIDES,
    crop=0.0,
    photometric=0.5,
    zoom_out=0.5,
    iou_crop=0.8,
    mosaic=0.5,
    mosaic_side=64,
    mixup=0.5,
    copy_paste=0.5,
)


@pytest.fixture
def dataset(make_dataset: MakeDataset) -> DetectionDataset:
    return open_dataset(f"coco:{make_dataset(images=12)}", "train")


def samples_of(dataset: DetectionDataset, augment: AugmentConfig) -> TransformedDataset:
    return TransformedDataset(dataset, TrainTransform(augment, SQUARE), mixing=augment.mixing)


def batches(
    dataset: DetectionDataset, epoch: int, stop: int | None = None, workers: int = 0
) -> Iterator[Collated]:
    samples, draws = samples_of(dataset, STRONG), BatchDraws(SIDES, stop)
    loader = make_loader(samples, 3, shuffle=True, seed=5, workers=workers, draws=draws)
    loader.set_epoch(epoch)
    yield from loader


def test_images_of_a_batch_have_one_drawn_side(dataset: DetectionDataset) -> None:
    sides = set()
    for epoch in range(6):
        for batch, _, _ in batches(dataset, epoch):
            assert batch.padding is None and batch.images.shape[-1] == batch.images.shape[-2]
            sides.add(batch.images.shape[-1])
    assert sides == set(SIDES)


def test_batches_are_the_same_in_workers(dataset: DetectionDataset) -> None:
    pairs = zip(batches(dataset, 1), batches(dataset, 1, workers=2), strict=True)
    for (batch, targets, _), (other, others, _) in pairs:
        assert torch.equal(batch.images, other.images)
        assert all(torch.equal(a.boxes_cxcywh, b.boxes_cxcywh) for a, b in zip(targets, others, strict=True))


def test_sides_depend_on_seed_epoch_and_batch_only() -> None:
    drawn = [BatchDraws(SIDES).of(0, 3, batch) for batch in range(30)]
    assert {draw.side for draw in drawn} == set(SIDES)
    assert drawn == [BatchDraws(SIDES).of(0, 3, batch) for batch in range(30)]
    assert drawn != [BatchDraws(SIDES).of(0, 4, batch) for batch in range(30)]


def test_strong_augmentation_ends(dataset: DetectionDataset) -> None:
    plain = samples_of(dataset, AugmentConfig.none())
    index = {image.id: i for i, image in enumerate(dataset.images)}

    def unchanged(epoch: int) -> list[bool]:
        return [
            image.shape == (expected := plain[index[info.image_id]].image).shape
            and torch.equal(image, expected)
            for batch, _, infos in batches(dataset, epoch, stop=5)
            for image, info in zip(batch.images, infos, strict=True)
        ]

    assert all(unchanged(epoch=4))  # the fifth
    assert not any(unchanged(epoch=3)[:3])


def shares(image: Tensor, target: Target) -> list[float]:
    """How much of each box has the colour of its class: squares are pure in one channel."""
    pixels = SQUARE.denormalise(image).float() / 255
    found = []
    boxes = scale_boxes(cxcywh_to_xyxy(target.boxes_cxcywh), image.shape[-1], image.shape[-2])
    for (x0, y0, x1, y1), label in zip(boxes.round().int().tolist(), target.labels.tolist(), strict=True):
        inside = pixels[:, y0:y1, x0:x1]
        other = torch.cat([inside[:label], inside[label + 1 :]]).mean(0)
        found.append(float(((inside[label] - other) > 0.25).float().mean()) if inside.numel() else 1.0)
    return found


@pytest.mark.parametrize("name", ["zoom_out", "iou_crop", "mosaic", "copy_paste"])
def test_boxes_stay_on_their_squares(name: str, make_dataset: MakeDataset) -> None:
    dataset = open_dataset(
        f"coco:{make_dataset(boxes=1)}", "train"
    )  # boxes that cover each other hide colours
    settings = {"flip": 0.0, "sizes": (), "crop": 0.0, "mosaic_side": 64, name: 1.0}
    samples, plain = samples_of(dataset, AugmentConfig(**settings)), samples_of(dataset, AugmentConfig.none())
    found, changed, most = [], 0, 0
    for seed in range(12):
        for index in range(len(dataset)):
            sample = samples[ImageKey(seed, index, BatchDraw())]
            assert sample.image.shape == (3, 64, 64)
            found += shares(sample.image, sample.target)
            changed += not torch.equal(sample.image, plain[index].image)
            most = max(most, len(sample.target.labels))
    # Of another image with one object, that object is pasted half of the time.
    often = 0.4 if name == "copy_paste" else 0.5
    assert changed > often * 12 * len(dataset) and len(found) > 30
    assert most == {"mosaic": 4, "copy_paste": 2}.get(name, 1)
    # A box that was turned has corners outside its square.
    assert sum(found) / len(found) > (0.7 if name == "mosaic" else 0.9), found


def test_a_blend_has_the_boxes_of_both(dataset: DetectionDataset) -> None:
    augment = AugmentConfig(flip=0.0, sizes=(), crop=0.0, mixup=1.0)
    samples, plain = samples_of(dataset, augment), samples_of(dataset, AugmentConfig.none())
    for index in range(4):
        alone, mixed = plain[index], samples[9, index]
        count = len(alone.target.labels)
        assert torch.equal(mixed.target.boxes_cxcywh[:count], alone.target.boxes_cxcywh)
        (other,) = [
            one
            for one in (plain[i] for i in range(len(dataset)))
            if torch.equal(one.target.boxes_cxcywh, mixed.target.boxes_cxcywh[count:])
        ]
        if other.info.image_id != alone.info.image_id:
            share = ((mixed.image - other.image) / (alone.image - other.image)).nanmedian()
            assert 0.45 <= share <= 0.55


def test_photometric_distortion_moves_no_box(dataset: DetectionDataset) -> None:
    augment = AugmentConfig(flip=0.0, sizes=(), crop=0.0, photometric=1.0)
    samples, plain = samples_of(dataset, augment), samples_of(dataset, AugmentConfig.none())
    for index in range(4):
        assert torch.equal(samples[1, index].target.boxes_cxcywh, plain[index].target.boxes_cxcywh)
        assert not torch.equal(samples[1, index].image, plain[index].image)


def test_blends_need_images_of_one_size() -> None:
    settings = {"data": {"square": 64}, "augment": {"mixup": 0.5}}
    assert resolve_training_config(None, None, settings).data.preprocessing.box == (64, 64)
    with pytest.raises(
        UserError, match=r"augment\.mixup is 0\.5: expected 0, or images of one size \(data\.square\)"
    ):
        resolve_training_config(None, None, {"augment": {"mixup": 0.5}})
