"""`check`: every kind of problem, and the statistics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detrscope.core.errors import UserError
from detrscope.data.check import check
from detrscope.data.validation_log import KINDS
from tests.support.datasets import MakeCoco, box, noise_image, with_orientation


def kinds(folder: Path, **options: object) -> dict[str, list[tuple[str, int | None]]]:
    found: dict[str, list[tuple[str, int | None]]] = {}
    for p in check(folder, **options).problems:
        found.setdefault(p.kind, []).append((Path(p.file).name, p.annotation))
    return found


def test_a_clean_dataset(make_coco: MakeCoco) -> None:
    rows = [box(i, c, [1, 1, 9, 9], area=81) for i, c in ((1, 1), (1, 7), (2, 900))]
    report = check(make_coco(rows))
    assert report.problems == ()
    (counted,) = report.statistics
    assert (counted.images, counted.boxes, counted.small, counted.large) == (2, 3, 3, 0)
    assert [(c.id, c.name, c.boxes, c.images) for c in counted.classes] == [
        (1, "cat", 1, 1),
        (7, "dog", 1, 1),
        (900, "cow", 1, 1),
    ]
    assert counted.boxes_per_image == {"mean": 1.5, "median": 1.5, "most": 2}


def test_every_kind_of_problem_is_found(make_coco: MakeCoco) -> None:
    rows = [
        box(1, 1, [1, 1, 0, 9], area=1),
        box(1, 8, [1, 1, 5, 9], area=1),
        box(1, 1, [38, 1, 5, 9], area=1),
        box(1, 1, [50, 1, 5, 9], area=1),
        box(1, 1, [5, 5, float("nan"), 9], area=1),
        box(1, 1, [1, 1, 5, 9]),
        box(1, 1, [1, 1, 5, 9], area=45),
        box(99, 1, [1, 1, 5, 9], area=45),
        box(1, 1, [1, 1, 5, 8], id=7, area=40),
        box(1, 7, [1, 1, 5, 9], iscrowd=1, area=45),
        {"image_id": "x", "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12},
        box(8, 1, [1, 1, 5, 9], area=45),
    ]
    folder = make_coco(rows, images=6)
    path = folder / "annotations" / "instances_train.json"
    tree = json.loads(path.read_text())
    tree["images"].append({"id": 2, "file_name": "1.png", "width": 40, "height": 30})
    tree["images"].append({"id": 7, "file_name": "none.png", "width": 40, "height": 30})
    tree["images"].append({"id": 8, "file_name": "turned.jpg", "width": 32, "height": 48})
    tree["images"].append({"id": 9, "file_name": "upright.jpg", "width": 48, "height": 32})
    tree["images"][4].update(width=80)
    tree["images"][5].update(width=41)
    path.write_text(json.dumps(tree))
    with_orientation(noise_image(48, 32, seed=8), folder / "train" / "turned.jpg", 6)
    with_orientation(noise_image(48, 32, seed=9), folder / "train" / "upright.jpg", 6)
    third, fourth = folder / "train" / "3.png", folder / "train" / "4.png"
    third.write_bytes(third.read_bytes()[:400])
    fourth.write_bytes((folder / "train" / "1.png").read_bytes())
    make_coco([box(1, 900, [1, 1, 5, 5], area=25)], images=1, split="val", folder=folder, first_seed=1)

    found = kinds(folder, queries=2)
    without = found.pop("image-without-boxes")
    assert ("2.png", None) in without and len(without) == 7
    assert found == {
        "empty-box": [("1.png", 1)],
        "undeclared-category": [("1.png", 2)],
        "box-clipped": [("1.png", 3)],
        "box-outside": [("1.png", 4)],
        "bad-box": [("1.png", 5)],
        "missing-area": [("1.png", 6)],
        "duplicate-box": [("1.png", 7)],
        "unknown-image": [("instances_train.json", 8)],
        "duplicate-annotation-id": [("1.png", 7)],
        "bad-id": [("instances_train.json", None)],
        "duplicate-image-id": [("1.png", None)],
        "missing-image": [("none.png", None)],
        "unreadable-image": [("3.png", None)],
        "exif-turned": [("turned.jpg", None)],
        "exif-ambiguous": [("upright.jpg", None)],
        "size-mismatch": [("5.png", None)],
        "size-rounded": [("6.png", None)],
        "duplicate-image": [("4.png", None)],
        "image-in-two-splits": [("2.png", None)],  # of the two the training image
        "more-objects-than-queries": [("1.png", None)],
        "class-without-boxes": [("set train", None), ("set train", None)],
        "class-not-evaluated": [("set val", None), ("set val", None)],
    }
    covered = {
        *found,
        "image-without-boxes",
        *("box-like-xyxy", "box-like-fractions", "corners-reversed", "bad-label", "bad-value", "no-labels"),
        *("labels-in-two-places", "one-file-two-images", "unused-file", "left-out-file"),
        *("one-label-two-images", "missing-split", "unused-images", "duplicate-class-name"),
        *("labels-like-pixels", "text-ids", "rotated-box", "unused-annotation", "unused-shape"),
        "unlabelled-task",
        *("similar-image", "similar-image-in-two-splits", "tiny-box", "giant-box"),
        *("constant-area", "classes-permuted", "classes-differ"),
    }  # those are tested with their readers, or below
    assert covered == set(KINDS)


def test_without_pixels_nothing_is_decoded(make_coco: MakeCoco) -> None:
    folder = make_coco([box(i, c, [1, 1, 9, 9], area=81) for i, c in ((1, 1), (1, 7), (2, 900))])
    path = folder / "train" / "1.png"
    path.write_bytes(path.read_bytes()[:400])
    assert "unreadable-image" in kinds(folder)
    assert kinds(folder, pixels=False) == {}


def test_the_report_as_json(make_coco: MakeCoco) -> None:
    tree = check(make_coco([box(1, 1, [5, 5, 0, 9])])).to_json()
    assert tree["errors"] == 1 and tree["statistics"][0]["images"] == 2
    (problem,) = [p for p in tree["problems"] if p["severity"] == "error"]
    assert problem["kind"] == "empty-box" and problem["annotation"] == 1 and problem["category"] == "cat"
    assert problem["file"].endswith("1.png") and "no width" in problem["reason"] and problem["fix"]
    json.dumps(tree, allow_nan=False)


def test_chosen_splits_only(make_coco: MakeCoco) -> None:
    folder = make_coco()
    make_coco(folder=folder, split="val", first_seed=50)
    assert [s.split for s in check(folder).statistics] == ["train", "val"]
    assert [s.split for s in check(folder, ["val"]).statistics] == ["val"]
    with pytest.raises(UserError, match="no split 'tset'"):
        check(folder, ["tset"])


def test_real_bccd(shared_data: Path) -> None:
    report = check(shared_data / "bccd")
    errors = [
        (p.kind, Path(p.file).name, p.annotation, p.category)
        for p in report.problems
        if p.severity == "error"
    ]
    assert errors == [
        ("empty-box", "BloodImage_00343.jpg", 2288, "RBC"),
        ("empty-box", "BloodImage_00338.jpg", 887, "RBC"),
    ]
    assert [(s.split, s.images, s.boxes) for s in report.statistics] == [
        ("train", 205, 2804),
        ("val", 87, 1137),
    ]


def test_an_empty_dataset_is_counted(make_coco: MakeCoco) -> None:
    (counted,) = check(make_coco((), 0)).statistics
    assert (counted.images, counted.boxes) == (0, 0)
