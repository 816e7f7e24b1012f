"""COCO's JSON as others export it: Roboflow, LVIS v1 and Objects365."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detrscope.data.check import check
from detrscope.data.convert import convert_dataset
from detrscope.data.open_dataset import open_dataset, splits_of
from tests.support.dataset_folders import save_image


def write(path: Path, images: list[dict[str, Any]], categories: list[dict[str, Any]], **row: Any) -> Path:
    """Write a JSON of images of 64 x 48 pixels with one box of the last category each."""
    rows = [
        {"id": i, "image_id": image["id"], "category_id": categories[-1]["id"], "bbox": [4, 5, 20, 10], **row}
        for i, image in enumerate(images, start=1)
    ]
    sized = [{"width": 64, "height": 48, **image} for image in images]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": sized, "annotations": rows, "categories": categories}))
    return path


def test_roboflow_export(tmp_path: Path) -> None:
    """Its category 0 is the project's name, the supercategory of the others, and has no boxes."""
    categories = [
        {"id": 0, "name": "cells", "supercategory": "none"},
        {"id": 1, "name": "rbc", "supercategory": "cells"},
        {"id": 2, "name": "wbc", "supercategory": "cells"},
    ]
    for seed, split in enumerate(("train", "valid", "test")):
        name = f"cell_{split}_jpg.rf.0123456789abcdef.jpg"
        image = {"id": 0, "license": 1, "file_name": name, "date_captured": "2024-01-01T00:00:00+00:00"}
        row = {"area": 200, "segmentation": [], "iscrowd": 0}
        write(tmp_path / split / "_annotations.coco.json", [image], categories, **row)
        save_image(tmp_path / split / name, seed)
    assert set(splits_of(tmp_path)) == {"train", "valid", "test"}
    dataset = open_dataset(tmp_path, "val")
    assert dataset.classes.ids == (0, 1, 2) and dataset.annotations[0][0].category_id == 2
    assert dataset.images[0].path.is_file()
    report = check(tmp_path)
    assert report.count("error") == 0
    empty = [p.category for p in report.problems if p.kind == "class-without-boxes"]
    assert empty == ["cells", "rbc"]  # it cannot be learned, and is named


def test_lvis_export_keeps_its_fields(tmp_path: Path) -> None:
    categories = [
        {"id": 3, "name": "air_conditioner", "frequency": "f", "synset": "a.n.01", "image_count": 1},
        {"id": 1203, "name": "zucchini", "frequency": "c", "synset": "z.n.01", "image_count": 9},
    ]
    url = "http://images.cocodataset.org/val2017/000000000139.jpg"
    image = {"id": 139, "coco_url": url, "neg_category_ids": [3], "not_exhaustive_category_ids": []}
    write(tmp_path / "lvis_v1_val.json", [image], categories, area=200, segmentation=[[4, 5, 24, 5, 24, 15]])
    save_image(tmp_path / "val2017" / "000000000139.jpg")
    for source in (tmp_path, tmp_path / "lvis_v1_val.json"):
        dataset = open_dataset(source, "val")
        assert dataset.images[0].path.is_file() and dataset.classes.ids == (3, 1203)
    convert_dataset(tmp_path, tmp_path / "out")
    tree = json.loads((tmp_path / "out" / "annotations" / "instances_val.json").read_text())
    assert tree["categories"] == categories
    assert tree["images"][0]["neg_category_ids"] == [3] and "coco_url" in tree["images"][0]
    assert tree["annotations"][0]["segmentation"] == [[4, 5, 24, 5, 24, 15]]


@pytest.mark.parametrize("below", ["train/patch8", "images/v1/patch8", "images/train/patch8"])
def test_objects365_images_are_in_patches(below: str, tmp_path: Path) -> None:
    names = ["objects365_v1_00420917.jpg", "objects365_v2_00420917.jpg"]
    folders = ["images/v1/patch8", "images/v2/patch16"]
    images = [
        {"id": 420917 + i, "file_name": f"{f}/{n}"}
        for i, (f, n) in enumerate(zip(folders, names, strict=True))
    ]
    categories = [{"id": 1, "name": "Person"}, {"id": 365, "name": "Table Tennis"}]
    row = {"area": 200, "iscrowd": 0, "isfake": 0, "isreflected": 0}
    write(tmp_path / "annotations" / "zhiyuan_objv2_train.json", images, categories, **row)
    places = [below, below.replace("v1", "v2").replace("patch8", "patch16")]
    for seed, (place, name) in enumerate(zip(places, names, strict=True)):
        save_image(tmp_path / place / name, seed)
    assert splits_of(tmp_path) == ("train",)
    dataset = open_dataset(tmp_path, "train")
    assert [image.path for image in dataset.images] == [
        tmp_path / place / name for place, name in zip(places, names, strict=True)
    ]
    assert dataset.annotations[420917][0].category_id == 365
    assert check(tmp_path).count("error") == 0
