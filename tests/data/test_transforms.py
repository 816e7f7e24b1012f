"""Transforms: boxes follow their pixels, DETR's defaults, seeds."""

from __future__ import annotations

import pickle
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detrscope.config import build
from detrscope.core.boxes import cxcywh_to_xyxy, scale_boxes
from detrscope.core.errors import UserError
from detrscope.core.preprocessing import Preprocessing
from detrscope.data.transforms import AugmentConfig, EvalTransform, TrainTransform

SMALL = Preprocessing(short_side=96, long_side=160)


def drawn(width: int, height: int, box: tuple[int, int, int, int]) -> Tensor:
    """A grey image with a red rectangle."""
    image = torch.full((3, height, width), 128, dtype=torch.uint8)
    x0, y0, x1, y1 = box
    image[:, y0:y1, x0:x1] = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1)
    return image


def seen(image: Tensor, preprocessing: Preprocessing) -> list[int] | None:
    """Where the red rectangle is in a transformed image, [x0, y0, x1, y1]; None where there is none."""
    pixels = preprocessing.denormalise(image).int()
    red = pixels[0] - pixels[1] > 127  # half way from grey to red
    ys, xs = torch.where(red)
    return None if len(xs) == 0 else [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]


@st.composite
def scenes(draw: st.DrawFn) -> tuple[int, int, tuple[int, int, int, int]]:
    width, height = draw(st.integers(40, 200)), draw(st.integers(40, 200))
    x0, y0 = draw(st.integers(0, width - 20)), draw(st.integers(0, height - 20))
    x1, y1 = draw(st.integers(x0 + 20, width)), draw(st.integers(y0 + 20, height))
    return width, height, (x0, y0, x1, y1)


AUGMENTS = st.sampled_from(
    [
        AugmentConfig.none(),
        AugmentConfig(flip=1.0, sizes=(), crop=0.0),
        AugmentConfig(flip=0.0, vertical_flip=1.0, sizes=(), crop=0.0),
        AugmentConfig(flip=0.0, sizes=(64, 96, 128), long_side=200, crop=0.0),
        AugmentConfig(
            flip=0.5, sizes=(64, 96), long_side=200, crop=1.0, crop_sizes=(80, 100), crop_min=50, crop_max=90
        ),
        AugmentConfig(flip=0.5, sizes=(), crop=1.0, crop_sizes=(), crop_min=30, crop_max=60),
        AugmentConfig(flip=0.5, sizes=(), crop=0.0, zoom=(0.5, 1.5), aspect=1.3),
        AugmentConfig(
            flip=0.5, vertical_flip=0.5, sizes=(96,), crop=0.5, crop_min=60, crop_max=90, zoom=(0.8, 1.2)
        ),
    ]
)


@settings(max_examples=100, deadline=None)
@given(scene=scenes(), augment=AUGMENTS, seed=st.integers(0, 10_000))
def test_boxes_stay_on_their_pixels(
    scene: tuple[int, int, tuple[int, int, int, int]], augment: AugmentConfig, seed: int
) -> None:
    width, height, box = scene
    torch.manual_seed(seed)
    boxes = torch.tensor([box], dtype=torch.float32)
    image, target = TrainTransform(augment, SMALL)(drawn(width, height, box), boxes, torch.tensor([3]))
    found = seen(image, SMALL)
    h, w = image.shape[1:]
    assert image.dtype == target.boxes_cxcywh.dtype == torch.float32
    if len(target.labels) == 0:
        assert found is None
        return
    assert target.labels.tolist() == [3]
    expected = scale_boxes(cxcywh_to_xyxy(target.boxes_cxcywh), w, h)[0]
    assert expected.min() >= -1e-3 and expected[2] <= w + 1e-3 and expected[3] <= h + 1e-3
    if found is None:  # a sliver too thin to reach half of the red
        assert (expected[2:] - expected[:2]).min() < 3
        return
    thin = bool((expected[2:] - expected[:2]).min() < 3)
    assert (torch.tensor(found) - expected).abs().max() <= (4 if thin else 2)


@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 90), height=st.integers(1, 90))
def test_evaluation_is_exactly_the_preprocessing(width: int, height: int) -> None:
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0.0, width, height]])
    ready, target = EvalTransform(SMALL)(image, boxes, torch.tensor([0]))
    assert torch.equal(ready, SMALL.apply(image))
    torch.testing.assert_close(target.boxes_cxcywh, torch.tensor([[0.5, 0.5, 1.0, 1.0]]))
    plain, same = TrainTransform(AugmentConfig.none(), SMALL)(image, boxes, torch.tensor([0]))
    assert torch.equal(plain, ready)
    torch.testing.assert_close(same.boxes_cxcywh, target.boxes_cxcywh)


def test_defaults_are_the_recipe_of_detr() -> None:
    transform = TrainTransform(AugmentConfig(), Preprocessing())
    image = drawn(640, 480, (10, 10, 100, 100))
    boxes = torch.tensor([[10.0, 10.0, 100.0, 100.0]])
    sizes, left = set(), 0
    whole = 0
    for seed in range(60):
        torch.manual_seed(seed)
        ready, target = transform(image, boxes, torch.tensor([0]))
        h, w = ready.shape[1:]
        if abs(w / h - 4 / 3) < 0.004:  # not cropped
            whole += 1
            sizes.add(min(h, w))
            left += int(target.boxes_cxcywh[0, 0] < 0.5)
        assert min(h, w) <= 800 and max(h, w) <= 1333
    assert 18 <= whole <= 42  # a half
    assert 0.25 * whole < left < 0.75 * whole  # mirrored half of the time
    assert sizes <= set(range(480, 801, 32)) and len(sizes) >= 7


def test_the_long_side_is_limited() -> None:
    augment = AugmentConfig(flip=0.0, sizes=(800,), crop=0.0)
    boxes = torch.zeros(0, 4)
    ready, _ = TrainTransform(augment, Preprocessing())(
        drawn(300, 100, (0, 0, 5, 5)), boxes, torch.zeros(0).long()
    )
    assert ready.shape == (3, 444, 1332)


def test_targets_without_boxes_are_empty() -> None:
    augment = AugmentConfig(flip=0.5, sizes=(64,), crop=1.0, crop_sizes=(), crop_min=10, crop_max=10)
    transform = TrainTransform(augment, SMALL)
    image = drawn(200, 200, (0, 0, 2, 2))
    lost = 0
    for seed in range(20):
        torch.manual_seed(seed)
        _, target = transform(image, torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([1]))
        lost += len(target.labels) == 0
        assert target.boxes_cxcywh.shape == (len(target.labels), 4)
    assert lost >= 18
    _, empty = transform(image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert empty.boxes_cxcywh.shape == (0, 4) and empty.labels.dtype == torch.int64


def test_labels_follow_the_remaining_boxes() -> None:
    augment = AugmentConfig(flip=0.5, sizes=(), crop=1.0, crop_sizes=(), crop_min=100, crop_max=100)
    transform = TrainTransform(augment, SMALL)
    boxes = torch.tensor([[x, 0.0, x + 10, 200.0] for x in range(0, 200, 10)])
    image = (torch.arange(200) // 10 * 12).to(torch.uint8).expand(3, 200, 200)  # label i is of colour 12 * i
    for seed in range(8):
        torch.manual_seed(seed)
        ready, target = transform(image, boxes, torch.arange(20))
        assert 10 <= len(target.labels) <= 11
        row = SMALL.denormalise(ready)[0, 48].float()
        for label, (x, _, width, _) in zip(target.labels.tolist(), target.boxes_cxcywh.tolist(), strict=True):
            if width > 0.05:
                assert abs(row[int(x * len(row))] - 12 * label) < 4


def test_colour_changes_pixels_and_no_boxes() -> None:
    augment = AugmentConfig(
        flip=0.0, sizes=(), crop=0.0, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.3
    )
    boxes = torch.tensor([[10.0, 10.0, 50.0, 50.0]])
    image = drawn(100, 96, (10, 10, 50, 50))
    torch.manual_seed(1)
    changed, target = TrainTransform(augment, SMALL)(image, boxes, torch.tensor([0]))
    plain, same = EvalTransform(SMALL)(image, boxes, torch.tensor([0]))
    assert (changed - plain).abs().max() > 0.1
    assert torch.equal(target.boxes_cxcywh, same.boxes_cxcywh)


def test_seeded_transforms_repeat_after_pickling() -> None:
    augment = AugmentConfig(
        zoom=(0.7, 1.2), aspect=1.2, hue=0.1, sizes=(64, 96, 128), crop_min=40, crop_max=60
    )
    transform = TrainTransform(augment, SMALL)
    image, boxes = drawn(120, 100, (10, 10, 60, 60)), torch.tensor([[10.0, 10.0, 60.0, 60.0]])
    results = []
    for chosen in (transform, pickle.loads(pickle.dumps(transform))):
        torch.manual_seed(7)
        results.append(chosen(image, boxes, torch.tensor([0])))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1].boxes_cxcywh, results[1][1].boxes_cxcywh)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"flp": 1}, "unknown key 'flp'; did you mean 'flip'"),
        ({"flip": 1.5}, r"test: flip is 1\.5: expected 1 or less"),
        ({"sizes": [0]}, r"test: sizes\.0 is 0: expected more than 0"),
        ({"crop_min": 700}, r"test: crop_min is 700: expected 1\.\.crop_max \(600\)"),
        ({"zoom": [1.2, 0.8]}, r"test: zoom is \(1\.2, 0\.8\): expected two numbers"),
        ({"aspect": 0.5}, r"test: aspect is 0\.5: expected 1 or more"),
        ({"hue": 0.9}, r"test: hue is 0\.9: expected 0\.5 or less"),
    ],
)
def test_wrong_settings_are_named(tree: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(AugmentConfig, tree, source="test")


def test_every_setting_has_its_help() -> None:
    assert all(f.metadata.get("help") for f in fields(AugmentConfig))
