"""Segmentation maps and regions; COCO masks against pycocotools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as oracle

from detrscope.data.coco_masks import decode_mask
from detrscope.data.dataset import Annotation, ImageInfo
from detrscope.data.drawn_dogs import write_drawn
from detrscope.data.open_dataset import open_dataset
from detrscope.data.part_masks import read_part_mask
from detrscope.data.segmentation import BACKGROUND, OBJECT, OTHERS, segmentation_of, segmentation_of_box

HEIGHT, WIDTH = 30, 40
STAR = [[3.0, 4.0, 30.0, 6.0, 24.5, 25.0, 9.0, 22.0], [31.0, 20.0, 38.0, 20.0, 38.0, 28.0]]


def annotation(number: int, segmentation: Any, area: float) -> Annotation:
    return Annotation(number, 1, 1, (0.0, 0.0, 5.0, 5.0), area, False, segmentation)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_masks_equal_those_of_pycocotools() -> None:
    wanted = oracle.decode(oracle.merge(oracle.frPyObjects(STAR, HEIGHT, WIDTH))).astype(bool)
    found = decode_mask(STAR, HEIGHT, WIDTH)
    assert found is not None and wanted.any() and (found == wanted).all()
    packed = oracle.encode(np.asfortranarray(wanted.astype(np.uint8)))
    again = decode_mask(packed, HEIGHT, WIDTH)
    assert again is not None and (again == wanted).all()
    flat = wanted.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    plain = {"size": [HEIGHT, WIDTH], "counts": counts if not flat[0] else [0, *counts]}
    whole = decode_mask(plain, HEIGHT, WIDTH)
    assert whole is not None and (whole == wanted).all()


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        "text",
        [["a", "b", "c", "d", "e", "f"]],
        [[1.0, 2.0, 3.0, 4.0]],
        {"size": [HEIGHT, WIDTH]},
        {"size": [5, 5], "counts": [25]},
        {"size": [HEIGHT, WIDTH], "counts": [10, 3]},
        {"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]},
    ],
)
def test_invalid_masks_are_none(wrong: Any) -> None:
    assert decode_mask(wrong, HEIGHT, WIDTH) is None


def test_regions_partition_the_image_smaller_object_on_top(tmp_path: Path) -> None:
    image = ImageInfo(1, tmp_path / "images" / "1.png", WIDTH, HEIGHT)
    large = annotation(1, [[0, 0, 20, 0, 20, 20, 0, 20]], 400)
    small = annotation(2, [[10, 10, 16, 10, 16, 16, 10, 16]], 36)
    for rows in ((large, small), (small, large)):
        ground = segmentation_of(image, rows)
        assert ground is not None
        names, masks = ground.regions(rows.index(small))
        assert names == (OBJECT, OTHERS, BACKGROUND)
        assert masks.sum((1, 2)).tolist() == [36, 400 - 36, WIDTH * HEIGHT - 400]
        assert (masks.sum(0) == 1).all()
    assert segmentation_of(image, (large, annotation(3, None, 1))) is None
    assert segmentation_of(image, ()) is None


def test_parts_partition_each_drawn_dog(tmp_path: Path) -> None:
    write_drawn(tmp_path / "dogs", count=12, size=96, seed=3)
    dataset = open_dataset(f"coco:{tmp_path / 'dogs'}", "train")
    image = max(dataset.images, key=lambda image: len(dataset.annotations[image.id]))
    rows = dataset.annotations[image.id]
    assert len(rows) >= 2
    ground = segmentation_of(image, rows)
    assert ground is not None
    _, instance, _ = read_part_mask(image.path)
    for place in range(len(rows)):
        names, masks = ground.regions(place)
        region = dict(zip(names, masks, strict=True))
        assert {"ears", "muzzle", "paws", "tail", "fur pattern"} <= set(names)
        parts = [name for name in names if name not in (OBJECT, OTHERS, BACKGROUND)]
        whole = sum(region[name].int() for name in parts)
        assert (whole == region[OBJECT].int()).all(), "parts neither overlap nor leave anything out"
        assert (region[OBJECT].numpy() == (instance == place + 1)).all()
        x, y, w, h = rows[place].bbox_xywh
        ys, xs = np.nonzero(instance == place + 1)
        assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (x, y, x + w, y + h), "mask of another dog"


def test_box_regions_are_inside_and_outside() -> None:
    names, masks = segmentation_of_box((3.0, 4.0, 10.0, 6.0), HEIGHT, WIDTH)
    assert names == ("box", "outside the box")
    assert masks[0].sum() == 60 and masks[0, 4:10, 3:13].all() and (masks[0] ^ masks[1]).all()
    assert segmentation_of_box((39.6, 29.6, 0.3, 0.3), HEIGHT, WIDTH)[1][0].sum() <= 1
