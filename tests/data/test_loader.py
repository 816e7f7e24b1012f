"""Batches: padding; order and augmentation by seed, epoch and index; damaged files; the cache."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from detrscope.core.errors import UserError
from detrscope.core.preprocessing import Preprocessing
from detrscope.core.types import Target
from detrscope.data import pixel_cache as cache
from detrscope.data.dataset import DetectionDataset, Sample, SampleInfo, TransformedDataset
from detrscope.data.image_reader import read_image
from detrscope.data.loader import Collated, DetectionLoader, collate, make_loader
from detrscope.data.open_dataset import open_dataset
from detrscope.data.transforms import AugmentConfig, EvalTransform, TrainTransform
from tests.support.datasets import MakeCoco, box

SMALL = Preprocessing(32, 64)
AUGMENT = AugmentConfig(sizes=(24, 32, 40), long_side=64, crop_sizes=(), crop_min=16, crop_max=24, hue=0.2)


def opened(make_coco: MakeCoco, images: int = 11) -> DetectionDataset:
    rows = [box(i, 7, [1, 2, 20, 12]) for i in range(1, images + 1) if i != 3]
    return open_dataset(make_coco(rows, images), "train")


def trained_on(dataset: DetectionDataset) -> TransformedDataset:
    return TransformedDataset(dataset, TrainTransform(AUGMENT, SMALL))


def epoch_of(loader: DetectionLoader, epoch: int, skip: int = 0) -> list[Collated]:
    loader.set_epoch(epoch, skip)
    return list(loader)


def same(a: list[Collated], b: list[Collated]) -> bool:
    if [[i.image_id for i in infos] for *_, infos in a] != [[i.image_id for i in infos] for *_, infos in b]:
        return False
    images = all(torch.equal(x[0].images, y[0].images) for x, y in zip(a, b, strict=True))
    targets = [(s, t) for x, y in zip(a, b, strict=True) for s, t in zip(x[1], y[1], strict=True)]
    return images and all(torch.equal(s.boxes_cxcywh, t.boxes_cxcywh) for s, t in targets)


def test_padding_is_at_the_right_and_the_bottom() -> None:
    sizes = [(4, 6), (5, 3)]
    empty = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    samples = [
        Sample(torch.full((3, h, w), i + 1.0), empty, SampleInfo(10 + i, (h, w)))
        for i, (h, w) in enumerate(sizes)
    ]
    batch, targets, infos = collate(samples)
    assert batch.images.shape == (2, 3, 5, 6)
    assert batch.padding is not None and batch.padding.shape == (2, 5, 6)
    for i, (h, w) in enumerate(sizes):
        inside = torch.zeros(5, 6, dtype=torch.bool)
        inside[:h, :w] = True
        assert torch.equal(batch.padding[i], ~inside)
        assert torch.equal(batch.images[i, 0] != 0, inside)
    assert targets == [empty, empty]
    assert [(i.image_id, i.size) for i in infos] == [(10, (4, 6)), (11, (5, 3))]
    assert collate(samples[:1])[0].padding is None


def test_order_and_augmentation_depend_on_seed_and_epoch_only(make_coco: MakeCoco) -> None:
    samples = trained_on(opened(make_coco))
    base = make_loader(samples, 4, shuffle=True, seed=5)
    first, third = epoch_of(base, 0), epoch_of(base, 2)
    assert len(base) == 3
    assert sorted(i.image_id for *_, infos in first for i in infos) == list(range(1, 12))
    assert not same(first, third)
    torch.manual_seed(99)
    workers = make_loader(samples, 4, shuffle=True, seed=5, workers=2)
    assert same(epoch_of(workers, 2), third)
    assert same(epoch_of(workers, 0), first)  # with workers that have lived through another epoch
    assert same(epoch_of(workers, 2, skip=1), third[1:])  # resumed in its middle
    assert not same(epoch_of(make_loader(samples, 4, shuffle=True, seed=6), 0), first)


def test_reading_does_not_draw_from_the_global_generator(make_coco: MakeCoco) -> None:
    loader = make_loader(trained_on(opened(make_coco)), 4, shuffle=True)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    epoch_of(loader, 0)
    assert torch.equal(torch.rand(4), expected)


def test_the_same_image_is_augmented_anew_each_epoch(make_coco: MakeCoco) -> None:
    loader = make_loader(trained_on(opened(make_coco, images=1)), 1, shuffle=True)
    shapes = {tuple(epoch_of(loader, e)[0][0].images.shape) for e in range(12)}
    assert len(shapes) > 3


def test_images_of_an_epoch_are_augmented_differently(make_coco: MakeCoco) -> None:
    samples = trained_on(opened(make_coco))
    assert len({tuple(samples[4, i].image.shape) for i in range(11)}) > 3


def test_in_place_transforms_leave_the_dataset_unchanged(make_coco: MakeCoco) -> None:
    def spoil(image: torch.Tensor, boxes: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, Target]:
        boxes.zero_()
        labels.zero_()
        return image.float(), Target(labels, boxes)

    samples = TransformedDataset(opened(make_coco), spoil)
    assert samples[0].target.labels.tolist() == [0]
    assert samples.ground_truth(0)[1].tolist() == [1]
    assert samples.ground_truth(0)[0].tolist() == [[1, 2, 21, 14]]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_an_epoch(make_coco: MakeCoco, world: int) -> None:
    samples = trained_on(opened(make_coco))
    one = [i.image_id for *_, infos in epoch_of(make_loader(samples, 11, shuffle=True), 1) for i in infos]
    parts = [epoch_of(make_loader(samples, 2, shuffle=True, rank=r, world=world), 1) for r in range(world)]
    assert len({len(p) for p in parts}) == 1
    ids = [[i.image_id for *_, infos in part for i in infos] for part in parts]
    together = [ids[n % world][n // world] for n in range(sum(map(len, ids)))]
    assert together == one  # every image once, those of a step in the same step as on one process
    plain = [make_loader(samples, 2, shuffle=False, rank=r, world=world) for r in range(world)]
    seen = [i.image_id for loader in plain for *_, infos in loader for i in infos]
    assert sorted(seen) == list(range(1, 12))  # evaluation: every image once


def test_more_processes_than_images(make_coco: MakeCoco) -> None:
    samples = trained_on(opened(make_coco, images=2))
    seen = []
    for rank in range(5):
        [(batch, targets, infos)] = epoch_of(make_loader(samples, 2, shuffle=True, rank=rank, world=5), 0)
        assert len(batch.images) == 1 and len(targets) == len(infos) == (rank < 2)  # the others get a filler
        seen += [info.image_id for info in infos]
    assert sorted(seen) == [1, 2]


def test_the_last_batch(make_coco: MakeCoco) -> None:
    samples = trained_on(opened(make_coco))
    sizes = [len(t) for _, t, _ in make_loader(samples, 4, shuffle=True)]
    assert sizes == [4, 4, 3]
    assert [len(t) for _, t, _ in make_loader(samples, 4, shuffle=True, drop_last=True)] == [4, 4]


def test_batches_without_any_box(make_coco: MakeCoco) -> None:
    dataset = open_dataset(make_coco((), 3), "train")
    ((_, targets, _),) = make_loader(trained_on(dataset), 3, shuffle=True)
    assert [t.boxes_cxcywh.shape for t in targets] == [(0, 4)] * 3


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_image_raises_one_line_naming_it(make_coco: MakeCoco, workers: int) -> None:
    dataset = opened(make_coco)
    path = dataset.images[4].path
    path.write_bytes(path.read_bytes()[:200])
    loader = make_loader(trained_on(dataset), 4, shuffle=True, workers=workers)
    with pytest.raises(UserError, match=r"^\S+5\.png: the image is .*$") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


def test_unreadable_images_are_skipped_and_counted(
    make_coco: MakeCoco, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = opened(make_coco)
    folder = dataset.images[0].path.parent.parent
    (folder / "train" / "2.png").unlink()
    (folder / "train" / "6.png").write_bytes(b"")
    dataset.images[8].path.write_bytes(dataset.images[8].path.read_bytes()[:300])
    with caplog.at_level(logging.WARNING, "detrscope"):
        kept = open_dataset(folder, "train", skip_unreadable=True)
    assert [i.id for i in kept.images] == [1, 3, 4, 5, 7, 8, 10, 11]
    assert "3 of 11 images skipped" in caplog.messages[-1] and "2.png" in caplog.messages[-1]
    ids = [
        [
            i.image_id
            for *_, infos in make_loader(trained_on(kept), 2, shuffle=False, rank=r, world=2)
            for i in infos
        ]
        for r in range(2)
    ]
    assert sorted(ids[0] + ids[1]) == [i.id for i in kept.images]
    assert len(kept.coco_json()["images"]) == 8


def test_an_image_that_changed_its_size_is_named(make_coco: MakeCoco) -> None:
    dataset = opened(make_coco)
    dataset.images[1].path.write_bytes(dataset.images[0].path.read_bytes())
    from PIL import Image

    Image.new("RGB", (9, 9)).save(dataset.images[0].path)
    with pytest.raises(UserError, match=r"1\.png: 9x9 pixels, but .* expects 40x30"):
        trained_on(dataset)[0]


def test_cache_holds_the_same_pixels_and_logs_its_size(
    make_coco: MakeCoco, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = opened(make_coco)
    with caplog.at_level(logging.INFO, "detrscope"):
        cached = TransformedDataset(dataset, EvalTransform(SMALL), cache=True)
    assert "caching 11 images takes 39.6 kB of memory" in caplog.messages[-1]
    for index, image in enumerate(dataset.images):
        assert torch.equal(cached.pixels(index), read_image(image.path))
    plain = TransformedDataset(dataset, EvalTransform(SMALL))
    before = [plain[i].image for i in range(11)]
    for image in dataset.images:
        image.path.unlink()
    assert all(torch.equal(cached[i].image, before[i]) for i in range(11))
    monkeypatch.setattr(cache, "free_memory_for_pixels", lambda: 1000)
    with pytest.raises(UserError, match=r"needs 39\.6 kB of memory but only 1\.0 kB is free"):
        TransformedDataset(dataset, EvalTransform(SMALL), cache=True)


def test_augmenting_does_not_change_the_cache(make_coco: MakeCoco) -> None:
    dataset = opened(make_coco)
    cached = TransformedDataset(dataset, TrainTransform(AUGMENT, SMALL), cache=True)
    before = cached.pixels(0).clone()
    boxes = cached.ground_truth(0)[0].clone()
    for epoch in range(20):
        cached[epoch, 0]
    assert torch.equal(cached.pixels(0), before)
    assert torch.equal(cached.ground_truth(0)[0], boxes)


def test_sizes_are_those_of_the_original(make_coco: MakeCoco) -> None:
    sample = TransformedDataset(opened(make_coco), EvalTransform(SMALL))[0]
    assert sample.info.size == (30, 40) and sample.image.shape == (3, 32, 42)


def test_wrong_numbers(make_coco: MakeCoco) -> None:
    samples = trained_on(opened(make_coco))
    for wrong in ({"batch_size": 0}, {"workers": -1}, {"seed": -1}, {"rank": 2, "world": 2}):
        with pytest.raises(UserError, match="expected"):
            make_loader(samples, **{"batch_size": 2, "shuffle": True, **wrong})
    with pytest.raises(UserError, match="no images to train on"):
        make_loader(trained_on(opened(make_coco).subset([])), 2, shuffle=True)
    assert list(make_loader(trained_on(opened(make_coco).subset([])), 2, shuffle=False)) == []
    with pytest.raises(TypeError, match="fixed list"):
        DetectionLoader(samples, [[0]], 0).set_epoch(1)


def test_fixed_batches(make_coco: MakeCoco) -> None:
    loader = DetectionLoader(trained_on(opened(make_coco)), [[3, 1], [0]], 0)
    assert [[i.image_id for i in infos] for *_, infos in loader] == [[4, 2], [1]]
    assert len(loader) == 2


def test_real_images(shared_data: Path) -> None:
    dataset = open_dataset(shared_data / "bccd", "train").subset(range(1, 5))
    preprocessing = Preprocessing(240, 320)
    samples = TransformedDataset(dataset, EvalTransform(preprocessing))
    ((batch, targets, _),) = make_loader(samples, 4, shuffle=False)
    assert batch.images.shape == (4, 3, 240, 320) and batch.padding is None
    assert torch.isfinite(batch.images).all()
    expected = np.array([a.bbox_xywh for a in dataset.annotations[1]])
    found = targets[0].boxes_cxcywh.numpy()
    assert np.allclose(found[:, 2] * 640, expected[:, 2], atol=1e-3)
    assert np.allclose(found[:, 1] * 480, expected[:, 1] + expected[:, 3] / 2, atol=1e-3)
