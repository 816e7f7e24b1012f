"""COCO panoptic: segments as annotations, masks from PNG files, panoptic quality of a model from the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detrscope.core.errors import UserError
from detrscope.core.preprocessing import Preprocessing
from detrscope.data.coco_masks import decode_mask
from detrscope.data.dataset import TransformedDataset
from detrscope.data.object_masks import ObjectMasks
from detrscope.data.open_dataset import open_dataset, splits_of
from detrscope.data.transforms import EvalTransform
from tests.support.panoptic_folder import DOG, HEIGHT, OTHER, SKY, WIDTH, segment_ids, write_panoptic


def test_segments_are_annotations_with_masks(tmp_path: Path) -> None:
    source = write_panoptic(tmp_path)
    assert splits_of(source) == ("val2017",)
    dataset = open_dataset(source, "val", details=True)
    rows = dataset.annotations[2]
    assert [(a.category_id, a.iscrowd) for a in rows] == [(187, False), (18, False), (18, True)]
    assert len({a.id for image in dataset.annotations.values() for a in image}) == 6
    for a, own in zip(rows, (SKY, DOG, OTHER), strict=True):
        mask = decode_mask(a.segmentation, HEIGHT, WIDTH)
        assert mask is not None and (mask == (segment_ids(2) == own)).all()
    exported = json.loads(json.dumps(dataset.coco_json()))  # plain run lengths
    mask = decode_mask(exported["annotations"][1]["segmentation"], HEIGHT, WIDTH)
    assert mask is not None and (mask == (segment_ids(1) == DOG)).all()


def test_masks_are_targets(tmp_path: Path) -> None:
    dataset = open_dataset(write_panoptic(tmp_path), "val", details=True)
    same = Preprocessing(fit="none")
    target = TransformedDataset(dataset, EvalTransform(same), masks=ObjectMasks(dataset))[0].target
    assert target.masks is not None and target.masks.sum((1, 2)).tolist() == [
        int((segment_ids(1) == own).sum()) for own in (SKY, DOG)
    ]


def test_a_missing_file_of_segments_is_named(tmp_path: Path) -> None:
    source = write_panoptic(tmp_path)
    (tmp_path / "annotations" / "panoptic_val2017" / "001.png").unlink()
    dataset = open_dataset(source, "val", details=True)
    samples = TransformedDataset(
        dataset, EvalTransform(Preprocessing(fit="none")), masks=ObjectMasks(dataset)
    )
    with pytest.raises(UserError, match=r"001\.png: cannot be read as a PNG file of 60x40 segment ids"):
        samples[0]


def test_other_annotations_are_refused(tmp_path: Path) -> None:
    source = write_panoptic(tmp_path)
    path = tmp_path / "annotations" / "panoptic_val2017.json"
    path.write_text(json.dumps({"images": [], "annotations": [{"bbox": []}], "categories": []}))
    with pytest.raises(UserError, match=r"panoptic_val2017\.json: expected COCO panoptic"):
        open_dataset(source, "val")
