"""COCO JSON: ids, the rules for boxes and sizes, and errors."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from detrscope.core.errors import UserError
from detrscope.data.clean import turn_annotations
from detrscope.data.dataset import DetectionDataset, TransformedDataset
from detrscope.data.image_reader import read_image
from detrscope.data.open_dataset import open_dataset, read_dataset
from detrscope.data.validation_log import ValidationLog
from tests.support.datasets import CATEGORIES, MakeCoco, box, noise_image, with_orientation


def raw(image: torch.Tensor, boxes_xyxy: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, object]:
    return image, (boxes_xyxy, labels)


def lenient(source: Path, split: str = "train") -> tuple[DetectionDataset, ValidationLog]:
    validation = ValidationLog(split, strict=False)
    return read_dataset(source, split, validation), validation


def boxes_of(dataset: DetectionDataset, image_id: int) -> list[tuple[float, ...]]:
    return [a.bbox_xywh for a in dataset.annotations[image_id]]


def test_category_ids_are_preserved(make_coco: MakeCoco) -> None:
    rows = [box(1, 900, [1, 2, 10, 12]), box(1, 7, [3, 4, 5, 6]), box(2, 1, [0, 0, 40, 30])]
    dataset = open_dataset(make_coco(rows), "train")
    assert dataset.classes.ids == (1, 7, 900)
    assert dataset.classes.names == ("cat", "dog", "cow")
    samples = TransformedDataset(dataset, raw)
    boxes, labels = samples[0].target
    assert labels.tolist() == [2, 1]
    assert boxes.tolist() == [[1, 2, 11, 14], [3, 4, 8, 10]]
    truth = dataset.coco_json()
    assert [a["category_id"] for a in truth["annotations"]] == [900, 7, 1]
    assert truth["categories"] == list(CATEGORIES)
    assert truth["images"][1] == {"id": 2, "file_name": "2.png", "width": 40, "height": 30}


def test_missing_area_iscrowd_and_box_are_derived(make_coco: MakeCoco) -> None:
    polygon = [[2, 3, 12, 3, 12, 8, 2, 8]]
    rows = [
        box(1, 1, [1, 2, 10, 12]),
        box(1, 1, [1, 2, 10, 12], area=55.5, iscrowd=1),
        box(1, 1, [1, 2, 10, 12], area=float("nan")),
        {"image_id": 1, "category_id": 7, "segmentation": polygon},
    ]
    dataset = open_dataset(make_coco(rows), "train", details=True)
    found = dataset.annotations[1]
    assert [a.area for a in found] == [120, 55.5, 120, 50]
    assert [a.iscrowd for a in found] == [False, True, False, False]
    assert found[3].bbox_xywh == (2, 3, 10, 5)
    assert found[3].segmentation == polygon
    assert open_dataset(make_coco(rows), "train").annotations[1][3].segmentation is None


def test_crowds_are_in_ground_truth_but_not_in_targets(make_coco: MakeCoco) -> None:
    dataset = open_dataset(
        make_coco([box(1, 1, [1, 2, 10, 12]), box(1, 1, [1, 2, 30, 12], iscrowd=1)]), "train"
    )
    assert len(TransformedDataset(dataset, raw)[0].target[1]) == 1
    assert [a["iscrowd"] for a in dataset.coco_json()["annotations"]] == [0, 1]


def test_images_without_annotations_are_kept(make_coco: MakeCoco) -> None:
    dataset = open_dataset(make_coco([box(2, 1, [1, 2, 10, 12])], images=3), "train")
    assert [i.id for i in dataset.images] == [1, 2, 3]
    assert dataset.annotations[1] == () == dataset.annotations[3]
    boxes, labels = TransformedDataset(dataset, raw)[0].target
    assert boxes.shape == (0, 4) and labels.shape == (0,)


def test_an_undeclared_category_stops_and_is_named(make_coco: MakeCoco) -> None:
    folder = make_coco([box(1, 1, [1, 2, 10, 12]), box(2, 8, [1, 2, 10, 12])])
    with pytest.raises(
        UserError, match=r"2\.png: annotation 2: category id 8 \(image id 2\) is not declared"
    ):
        open_dataset(folder, "train")


@pytest.mark.parametrize(
    ("bbox", "kind", "left"),
    [
        ([5, 5, 0, 10], "empty-box", None),
        ([5, 5, 10, -3], "empty-box", None),
        ([5, 5, math.nan, 10], "bad-box", None),
        ([5, 5, math.inf, 10], "bad-box", None),
        ([5, 5, 10], "bad-box", None),
        (None, "bad-box", None),
        ([50, 5, 10, 10], "box-outside", None),
        ([-20, 5, 20, 10], "box-outside", None),
        ([35, 25, 10, 10], "box-clipped", (35, 25, 5, 5)),
        ([-5, -5, 10, 10], "box-clipped", (0, 0, 5, 5)),
        ([30, 20, 10.4, 10], None, (30, 20, 10, 10)),  # rounding is cut and not reported
        ([0, 0, 40, 30], None, (0, 0, 40, 30)),
    ],
)
def test_boxes_are_cleaned_by_rule(
    make_coco: MakeCoco, bbox: object, kind: str | None, left: tuple[float, ...] | None
) -> None:
    good = box(1, 1, [1, 1, 5, 5], area=25)
    folder = make_coco([good, {"image_id": 1, "category_id": 7, "bbox": bbox, "area": 400}])
    dataset, validation = lenient(folder)
    assert boxes_of(dataset, 1)[1:] == ([] if left is None else [pytest.approx(left)])
    assert [(p.kind, p.annotation, p.category) for p in validation.problems] == (
        [(kind, 2, "dog")] if kind else []
    )
    if kind == "box-clipped":
        assert dataset.annotations[1][1].area == 25  # the declared one is of more than is left
    for problem in validation.problems:
        assert problem.file.endswith("1.png") and problem.fix and problem.reason


def test_dropped_annotations_are_logged_in_one_line(
    make_coco: MakeCoco, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_coco([box(1, 1, [5, 5, 0, 1]), box(2, 1, [5, 5, 0, 1]), box(2, 1, [5, 5, 9, 9])])
    with caplog.at_level(logging.WARNING, "detrscope"):
        dataset = open_dataset(folder, "train")
    assert sum(map(len, dataset.annotations.values())) == 1
    (line,) = caplog.messages
    assert "2 x empty-box" in line and "1.png: annotation 1" in line and "data check" in line


def test_corners_given_as_sizes_are_suspected(make_coco: MakeCoco) -> None:
    as_corners = [box(1, 1, [10, 10, 30, 25]), box(1, 1, [20, 5, 39, 20]), box(2, 1, [1, 1, 5, 5])]
    _, validation = lenient(make_coco(as_corners))
    assert "box-like-xyxy" in {p.kind for p in validation.problems}
    sloppy = [box(1, 1, [10, 10, 35, 15]), box(1, 1, [30, 5, 5, 20]), box(2, 1, [20, 20, 5, 5])]
    _, validation = lenient(make_coco(sloppy))
    assert {p.kind for p in validation.problems} == {"box-clipped", "missing-area"}


def test_annotation_ids(make_coco: MakeCoco) -> None:
    rows = [box(1, 1, [1, 1, 5, 5], id=0), box(1, 1, [9, 9, 5, 5], id=4)]
    dataset, validation = lenient(make_coco(rows))
    assert [a.id for a in dataset.annotations[1]] == [0, 4]
    # A match with annotation 0 counts as none in COCO's evaluation.
    assert [a["id"] for a in dataset.coco_json()["annotations"]] == [1, 2]
    rows = [box(1, 1, [1, 1, 5, 5], id=4), box(2, 1, [9, 9, 5, 5], id=4)]
    dataset, validation = lenient(make_coco(rows))
    assert "duplicate-annotation-id" in {p.kind for p in validation.problems}
    assert [a["id"] for a in dataset.coco_json()["annotations"]] == [1, 2]


def test_ids_written_as_text_or_float_are_integers(make_coco: MakeCoco) -> None:
    dataset = open_dataset(make_coco([box(1, 7, [1, 1, 5, 5], id="12") | {"image_id": 1.0}]), "train")
    assert dataset.annotations[1][0].id == 12


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t["images"][1].update(id=1), r"2\.png: image id 1 is also that of 1\.png"),
        (
            lambda t: t["images"][1].update(id="b"),
            r"image \{'id': 'b', 'file_name': '2\.png'\}: expected an integer",
        ),
        (lambda t: t["annotations"][0].update(image_id=None), "annotation .* expected integers"),
        (lambda t: t["categories"].append({"id": 7, "name": "x"}), "category id 7 is declared twice"),
        (lambda t: t["categories"].append({"id": 8}), "expected an integer 'id' of 64 bits and a 'name'"),
        (lambda t: t.pop("categories"), "'categories' must be a list"),
        (lambda t: t.update(images={}), "'images' must be a list"),
        (lambda t: t["images"][0].update(width=80), r"1\.png: declared as 80x30, the file has 40x30"),
    ],
)
def test_wrong_json_is_named(make_coco: MakeCoco, edit: object, message: str) -> None:
    folder = make_coco([box(1, 1, [1, 1, 5, 5])])
    path = folder / "annotations" / "instances_train.json"
    tree = json.loads(path.read_text())
    edit(tree)
    path.write_text(json.dumps(tree))
    with pytest.raises(UserError, match=message):
        open_dataset(folder, "train")


def test_files_that_are_not_coco_json(tmp_path: Path) -> None:
    for text, message in (("[]", "a results file"), ("{", "not valid JSON"), ("\xff", "not UTF-8")):
        (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(UserError, match=f"a.json: .*{message}"):
            open_dataset(tmp_path / "a.json", "train")


def test_an_annotation_of_an_unknown_image_is_dropped(make_coco: MakeCoco) -> None:
    dataset, validation = lenient(
        make_coco([box(77, 1, [1, 1, 5, 5], area=1), box(1, 1, [1, 1, 5, 5], area=1)])
    )
    assert sum(map(len, dataset.annotations.values())) == 1
    assert [(p.kind, p.annotation) for p in validation.problems] == [("unknown-image", 1)]


def test_a_missing_file_is_reported_and_named_when_read(
    make_coco: MakeCoco, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_coco([box(1, 1, [1, 1, 5, 5])])
    (folder / "train" / "2.png").unlink()
    dataset = open_dataset(folder, "train")
    assert any("1 x missing-image" in m and "2.png" in m for m in caplog.messages)
    samples = TransformedDataset(dataset, raw)
    assert samples[0].info.size == (30, 40)
    with pytest.raises(UserError, match=r"2\.png: no such image file"):
        samples[1]


def test_boxes_of_missing_files_without_size_stay(make_coco: MakeCoco) -> None:
    folder = make_coco([box(1, 1, [500, 400, 50, 60], area=3000)], images=[{"id": 1, "file_name": "no.jpg"}])
    dataset, validation = lenient(folder)
    assert boxes_of(dataset, 1) == [(500, 400, 50, 60)]
    assert [p.kind for p in validation.problems] == ["missing-image"]


def test_file_size_replaces_missing_or_rounded_size(make_coco: MakeCoco) -> None:
    folder = make_coco()
    rows = [{"id": 1, "file_name": "1.png"}, {"id": 2, "file_name": "2.png", "width": 41, "height": 30}]
    make_coco([box(2, 1, [1, 1, 39, 5])], images=rows, folder=folder)
    dataset, validation = lenient(folder)
    assert [(i.width, i.height) for i in dataset.images] == [(40, 30), (40, 30)]
    assert "size-rounded" in {p.kind for p in validation.problems}


def coloured(width: int, height: int, x: int, y: int, w: int, h: int) -> Image.Image:
    image = Image.new("RGB", (width, height), (0, 0, 0))
    image.paste((255, 255, 255), (x, y, x + w, y + h))
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_with_exif_when_sizes_match_stored_pixels(
    make_coco: MakeCoco, tmp_path: Path, orientation: int
) -> None:
    folder = tmp_path / "set"
    (folder / "train").mkdir(parents=True)
    upright = coloured(64, 48, 8, 16, 24, 8)
    path = folder / "train" / "a.png"
    with_orientation(upright, path, orientation)
    with Image.open(path) as stored:  # boxes drawn by a tool that knows nothing of EXIF
        left, top, right, bottom = stored.convert("L").getbbox()
        rows = [{"id": 1, "file_name": "a.png", "width": stored.width, "height": stored.height}]
    polygon = [[left, top, right, top, right, bottom]]
    annotation = box(1, 1, [left, top, right - left, bottom - top], area=192, segmentation=polygon)
    if orientation in (2, 3, 4):  # the size cannot tell: boxes are read as upright
        annotation["bbox"] = [8, 16, 24, 8]
    make_coco([annotation], images=rows, folder=folder)
    validation = ValidationLog("train", strict=False)
    dataset = read_dataset(folder, "train", validation, details=True)
    assert (dataset.images[0].width, dataset.images[0].height) == (64, 48)
    assert boxes_of(dataset, 1) == [(8, 16, 24, 8)]
    expected = [] if orientation == 1 else ["exif-ambiguous" if orientation < 5 else "exif-turned"]
    assert [p.kind for p in validation.problems] == expected
    if orientation >= 5:
        points = dataset.annotations[1][0].segmentation[0]
        assert (min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])) == (8, 16, 32, 24)
    image = read_image(dataset.images[0].path)
    ys, xs = torch.where(image[0] > 0)
    assert [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] == [8, 16, 32, 24]


def test_upright_sizes_mean_upright_boxes(make_coco: MakeCoco, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "train").mkdir(parents=True)
    with_orientation(noise_image(64, 48), folder / "train" / "a.jpg", 6)
    rows = [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}]
    dataset, validation = lenient(
        make_coco([box(1, 1, [50, 40, 10, 5], area=50)], images=rows, folder=folder)
    )
    assert boxes_of(dataset, 1) == [(50, 40, 10, 5)]
    assert [p.kind for p in validation.problems] == ["exif-ambiguous"]


def test_four_quarter_turns_are_the_identity() -> None:
    start = (3.0, 5.0, 7.0, 2.0)
    found, width, height = start, 40, 30
    for _ in range(4):
        found, width, height = turn_annotations(found, width, height, 6), height, width
    assert found == start
    assert turn_annotations(turn_annotations(start, 40, 30, 6), 30, 40, 8) == start


def test_real_coco(shared_data: Path) -> None:
    dataset = open_dataset(shared_data / "coco-tiny", "train")
    source = json.loads((shared_data / "coco-tiny" / "annotations" / "instances_train2017.json").read_text())
    assert len(dataset.classes) == 80 and dataset.classes.ids[-1] == 90
    truth = dataset.coco_json()
    assert len(truth["images"]) == 32
    declared = {a["id"]: a for a in source["annotations"]}
    assert len(truth["annotations"]) == len(declared) == 288
    for row in truth["annotations"]:
        same = declared[row["id"]]
        assert row["bbox"] == pytest.approx(same["bbox"], abs=0.02)
        assert (row["area"], row["iscrowd"]) == (same["area"], same["iscrowd"])


def test_real_bccd(shared_data: Path) -> None:
    dataset, validation = lenient(shared_data / "bccd", "val")
    assert len(dataset) == 87
    assert [(p.kind, Path(p.file).name, p.annotation) for p in validation.problems] == [
        ("empty-box", "BloodImage_00338.jpg", 887)
    ]


def test_subset_keeps_the_requested_order(make_coco: MakeCoco) -> None:
    dataset = open_dataset(make_coco([box(2, 1, [1, 1, 5, 5])], images=3), "train")
    part = dataset.subset([3, 2])
    assert [i.id for i in part.images] == [3, 2]
    assert set(part.annotations) == {2, 3} and part.classes == dataset.classes
    with pytest.raises(UserError, match="no image has the id 9"):
        dataset.subset([9])
