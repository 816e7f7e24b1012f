"""COCO panoptic: segments as annotations, masks from PNG files, panoptic quality of a model from the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrscope.core.errors import UserError
from detrscope.core.preprocessing import Preprocessing
from detrscope.data.coco_masks import decode_mask
from detrscope.data.dataset import TransformedDataset
from detrscope.data.object_masks import ObjectMasks
from detrscope.data.open_dataset import open_dataset, splits_of
from detrscope.data.transforms import EvalTransform

HEIGHT, WIDTH = 40, 60
SKY, DOG, OTHER = 70_001, 300, 5  # ids over several colours


def segment_ids(number: int) -> np.ndarray:
    ids = np.zeros((HEIGHT, WIDTH), np.int64)
    ids[:20] = SKY
    ids[15:35, 10 + number : 30 + number] = DOG
    ids[25:35, 40:50] = OTHER
    return ids


def write_panoptic(folder: Path) -> str:
    """Two images with sky (stuff), a dog (a thing) and a crowd of dogs; below it void."""
    pngs = folder / "annotations" / "panoptic_val2017"
    pngs.mkdir(parents=True)
    (folder / "val2017").mkdir()
    annotations = []
    for number in (1, 2):
        ids = segment_ids(number)
        colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        Image.fromarray(colours).save(pngs / f"{number:03d}.png")
        Image.fromarray(colours).save(folder / "val2017" / f"{number:03d}.jpg")
        segments: list[dict[str, Any]] = []
        for own, category, crowd in ((SKY, 187, 0), (DOG, 18, 0), (OTHER, 18, 1)):
            ys, xs = np.nonzero(ids == own)
            box = [int(v) for v in (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)]
            row = {"id": own, "category_id": category, "iscrowd": crowd, "bbox": box, "area": len(xs)}
            segments.append(row)
        annotations.append({"image_id": number, "file_name": f"{number:03d}.png", "segments_info": segments})
    images = [{"id": n, "file_name": f"{n:03d}.jpg", "width": WIDTH, "height": HEIGHT} for n in (1, 2)]
    categories = [{"id": 18, "name": "dog", "isthing": 1}, {"id": 187, "name": "sky", "isthing": 0}]
    tree = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / "panoptic_val2017.json").write_text(json.dumps(tree))
    return f"coco-panoptic:{folder}"


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
