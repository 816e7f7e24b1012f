"""Datasets as other tools write them: read in full, or refused with a reason."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrscope.core.errors import UserError
from detrscope.data.check import check
from detrscope.data.convert import convert_dataset
from detrscope.data.dataset import DetectionDataset
from detrscope.data.image_files import ALLOW_OUTSIDE
from detrscope.data.image_header import MAX_PIXELS, read_size
from detrscope.data.image_reader import read_image
from detrscope.data.open_dataset import open_dataset, splits_of
from detrscope.data.parse_values import parse_boolean, parse_integer, parse_number
from detrscope.evaluation.coco_ap import average_precision
from tests.support.dataset_folders import save_image, write_coco_json, write_yolo


def boxes(dataset: DetectionDataset) -> int:
    return sum(map(len, dataset.annotations.values()))


@pytest.mark.parametrize("layout", [("images", "labels"), ("images", "images"), ("pictures", "pictures")])
@pytest.mark.parametrize("above", ["data", "images", "images/images/mine"])
def test_labels_are_found_under_any_parent_folder(
    layout: tuple[str, str], above: str, tmp_path: Path
) -> None:
    folder = write_yolo(tmp_path / above, *layout)
    assert boxes(open_dataset(f"yolo:{folder}", "train")) == 2


def test_split_without_any_labels_is_refused(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, labels="annotations")
    with pytest.raises(UserError, match="no label file for any of its 2 images"):
        open_dataset(folder, "train")


def test_labels_in_two_places_that_differ_are_refused(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    (folder / "train" / "images" / "0.txt").write_text("0 0.1 0.1 0.1 0.1\n")
    with pytest.raises(UserError, match=r"labels/0\.txt and other ones in .*images/0\.txt"):
        open_dataset(folder, "train")


def test_unused_labels_are_named(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    (folder / "train" / "labels" / "gone.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    assert [Path(p.file).name for p in check(folder).problems if p.kind == "unused-file"] == ["gone.txt"]


@pytest.mark.parametrize(
    "name", ["._0.png", ".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/._0.png", ".x/1.png"]
)
def test_hidden_files_are_ignored(name: str, tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    save_image(folder / "train" / "images" / name)
    (folder / "train" / "labels" / "._0.txt").write_bytes(b"\0\5\26\7")
    assert len(open_dataset(folder, "train")) == 2


@pytest.mark.parametrize("kind", ["data.yaml", "yolo:data.yaml", "obj.data"])
def test_yolo_layouts_open_by_their_description_files(kind: str, tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    if kind == "obj.data":
        (folder / "data.yaml").unlink()
        (folder / "obj.data").write_text("classes = 1\ntrain = data/train.txt\nnames = data/obj.names\n")
        (folder / "obj.names").write_text("dog\n")
        (folder / "train.txt").write_text("data/train/images/0.png\ndata/train/images/1.png\n")
        source = str(folder)
    else:
        source = kind.replace("data.yaml", str(folder / "data.yaml"))
    assert splits_of(source) == ("train",)
    assert boxes(open_dataset(source, "train")) == 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, False),
        ("0", False),
        ("false", False),
        (None, False),
        (0.0, False),
        (1, True),
        ("1", True),
        (True, True),
    ],
)
def test_iscrowd_is_read_from_any_type(value: Any, expected: bool, tmp_path: Path) -> None:
    save_image(tmp_path / "train" / "a.png")
    write_coco_json(
        tmp_path / "annotations" / "instances_train.json",
        ["a.png"],
        iscrowd=value,
        area="200",
        category_id="1",
    )
    ((annotation,),) = open_dataset(tmp_path, "train").annotations.values()
    assert annotation.iscrowd is expected and annotation.area == 200


@pytest.mark.parametrize(
    ("key", "value"), [("iscrowd", "maybe"), ("iscrowd", 7), ("area", "large"), ("area", [])]
)
def test_unparsable_values_are_named(key: str, value: Any, tmp_path: Path) -> None:
    save_image(tmp_path / "train" / "a.png")
    write_coco_json(tmp_path / "annotations" / "instances_train.json", ["a.png"], **{key: value})
    with pytest.raises(UserError, match=rf"instances_train\.json: annotation 1: {key} is .*expected"):
        open_dataset(tmp_path, "train")


def test_parse_values() -> None:
    assert [
        parse_integer(v) for v in (7, 7.0, "7", "-7", True, "7.5", 10**20, "9" * 5000, None, float("inf"))
    ] == [*(7, 7, 7, -7, None, None, None, None, None, None)]
    assert [parse_number(v) for v in ("1.5", 2, True, "nan", 10**400, [])] == [
        1.5,
        2.0,
        None,
        None,
        None,
        None,
    ]
    assert [parse_boolean(v) for v in ("", " TRUE ", "no", 2, [])] == [False, True, False, None, None]


def test_boxes_as_fractions_are_warned_about(tmp_path: Path) -> None:
    save_image(tmp_path / "train" / "a.png")
    write_coco_json(tmp_path / "annotations" / "instances_train.json", ["a.png"], bbox=[0.1, 0.2, 0.5, 0.5])
    assert "box-like-fractions" in {p.kind for p in check(tmp_path).problems}


def test_reversed_corners_are_ordered_and_reported(tmp_path: Path) -> None:
    save_image(tmp_path / "train" / "a.png")
    corners = "<xmin>30</xmin><ymin>5</ymin><xmax>10</xmax><ymax>25</ymax>"
    (tmp_path / "train" / "a.xml").write_text(
        f"<annotation><object><name>dog</name><bndbox>{corners}</bndbox></object></annotation>"
    )
    ((annotation,),) = open_dataset(f"voc:{tmp_path}", "train").annotations.values()
    assert annotation.bbox_xywh == (10, 5, 20, 20)
    assert [(p.kind, p.annotation) for p in check(f"voc:{tmp_path}").problems] == [("corners-reversed", 1)]


def test_ap_is_computed_on_the_boxes_as_declared(tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    names = [f"{i}.png" for i in range(8)]
    for i, name in enumerate(names):
        save_image(tmp_path / "val" / name, seed=i)
    path = write_coco_json(tmp_path / "annotations" / "instances_val.json", names)
    tree = json.loads(path.read_text())
    random = np.random.default_rng(0)
    for row in tree["annotations"]:
        row["bbox"] = [float(v) for v in random.uniform((-20, -20, 5, 5), (50, 40, 60, 60))]
        row["area"] = row["bbox"][2] * row["bbox"][3]
    tree["annotations"][0]["bbox"] = [70.0, 50.0, 10.0, 10.0]  # outside
    tree["annotations"][1]["bbox"] = [10.0, 10.0, 0.0, 5.0]  # empty
    path.write_text(json.dumps(tree))
    results = [
        {
            "image_id": r["image_id"],
            "category_id": 1,
            "bbox": [v + 1.5 for v in r["bbox"]],
            "score": 0.9 - i / 20,
        }
        for i, r in enumerate(tree["annotations"])
    ]
    dataset = open_dataset(tmp_path, "val")
    assert boxes(dataset) < 8  # what cannot be learned from is no target
    found = average_precision(dataset.coco_json(), results)
    truth = COCO(str(path))
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
    assert pytest.approx(list(evaluation.stats[:3]), abs=1e-9) == [found.AP, found.AP50, found.AP75]


def test_exact_split_name_wins_and_ambiguity_is_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "images" / "a.png")
    for name in ("train", "trainval", "train_fold1"):
        write_coco_json(tmp_path / "annotations" / f"{name}.json", ["a.png"] * (1 if name == "train" else 2))
    assert len(open_dataset(tmp_path, "train")) == 1
    (tmp_path / "annotations" / "train.json").unlink()
    assert len(open_dataset(tmp_path, "train")) == 2  # train_fold1, never trainval
    write_coco_json(tmp_path / "annotations" / "train_fold2.json", ["a.png"])
    with pytest.raises(UserError, match="may be train_fold1 or train_fold2"):
        open_dataset(tmp_path, "train")


def test_written_names_are_unique_on_every_file_system(tmp_path: Path) -> None:
    names = [
        "one/a.png",
        "two/a.png",
        "three/A.PNG",
        "four/2_a.png",
        f"five/{unicodedata.normalize('NFD', 'é')}.png",
    ]
    names.append(f"six/{unicodedata.normalize('NFC', 'é')}.png")
    for i, name in enumerate(names):
        save_image(tmp_path / "set" / "images" / name, seed=i)
    write_coco_json(tmp_path / "set" / "annotations.json", names)
    convert_dataset(f"coco:{tmp_path / 'set'}", tmp_path / "out")
    tree = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text(encoding="utf-8"))
    written = [row["file_name"] for row in tree["images"]]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in written}) == len(names)
    for name, other in zip(names, written, strict=True):
        same = (tmp_path / "set" / "images" / name).read_bytes() == (
            tmp_path / "out" / "train" / other
        ).read_bytes()
        assert same, name


def test_ambiguous_last_part_of_a_name_is_missing(tmp_path: Path) -> None:
    save_image(tmp_path / "images" / "a.png")
    write_coco_json(tmp_path / "annotations.json", ["one/a.png", "two/a.png"])
    assert [p.kind for p in check(tmp_path).problems if p.severity == "error"] == ["missing-image"] * 2


@pytest.mark.parametrize(
    "name", ["A.PNG", "sub%20folder/a.png", "upload/1/a.png", "http://host/train2017/a.png"]
)
def test_files_are_found_by_names_changed_by_tools(name: str, tmp_path: Path) -> None:
    save_image(tmp_path / "images" / "a.png")
    path = write_coco_json(tmp_path / "result.json", [name])
    if name.startswith("http"):
        tree = json.loads(path.read_text())
        tree["images"][0]["coco_url"] = tree["images"][0].pop("file_name")
        path.write_text(json.dumps(tree))
    assert read_size(open_dataset(tmp_path, "train").images[0].path).width == 64


@pytest.mark.parametrize("name", ["/etc/passwd", "../../secret.png", "../secret.png"])
def test_nothing_outside_the_folder_is_read_or_copied(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_image(tmp_path / "secret.png")
    save_image(tmp_path / "deep" / "secret.png")
    write_coco_json(tmp_path / "deep" / "set" / "annotations.json", [name])
    with pytest.raises(UserError, match="outside of the dataset's folder"):
        convert_dataset(tmp_path / "deep" / "set", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv(ALLOW_OUTSIDE, "1")
    if name != "/etc/passwd":
        convert_dataset(tmp_path / "deep" / "set", tmp_path / "out")
        return
    with pytest.raises(UserError, match="passwd"):  # no image
        convert_dataset(tmp_path / "deep" / "set", tmp_path / "out")


@pytest.mark.parametrize("text", ["train: /\nnames: [dog]\n", "path: /\ntrain: usr\nnames: [dog]\n"])
def test_data_yaml_cannot_leave_its_folder(text: str, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(UserError, match="outside of the dataset's folder"):
        open_dataset(tmp_path, "train")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_postscript(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")


def a_folder(path: Path) -> None:
    path.mkdir()


def a_bomb(path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(path, format="PNG")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (a_pipe, "not a regular file"),
        (a_postscript, "not an image that can be read"),
        (a_folder, "a folder|not a regular file"),
        (a_bomb, "too many pixels.*the limit is .*set " + MAX_PIXELS),
    ],
)
@pytest.mark.parametrize("reader", [read_image, read_size])
def test_files_that_are_not_images_are_refused(
    make: Callable[[Path], None], reason: str, reader: Callable[[Path], Any], tmp_path: Path
) -> None:
    path = tmp_path / "x.png"
    make(path)
    with pytest.raises(UserError, match=reason):
        reader(path)


YAML_BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (YAML_BOMB.encode() + b"names: *h\n", "aliases"),
        (b"names: " + b"[" * 3000, "nested too deeply|not valid YAML"),
        ("names: [hé]".encode("latin-1"), "not UTF-8"),
        (b"names: [" + b"[" * 100_000, "nested too deeply"),
        (b"nc: 3\nnames: [a, b]", "'nc' is '3', but 'names' has 2"),
        (b"names: [a]\ntrain: {a: b}", "'train' is .*expected a folder"),
        (b"names: !!python/object:os.system [x]", "not valid YAML"),
        (b"names: {1: a, 2: b}", "keys of 'names'"),
        (b"names: [[1]]", "list of names"),
    ],
)
def test_third_party_yaml_errors_are_one_line(text: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_bytes(text)
    with pytest.raises(UserError, match=reason):
        open_dataset(tmp_path / "data.yaml", "train")


def test_yaml_class_names_are_read_as_text(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    names = ["no", "1.10", "2024-01-01", "2020-99-99", "null", "1e3", "0x10"]
    (folder / "data.yaml").write_text(f"train: train/images\nnames: [{', '.join(names)}]\n")
    assert list(open_dataset(folder, "train").classes.names) == names


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_names_in_any_unicode_encoding(encoding: str, tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    (folder / "data.yaml").unlink()
    (folder / "classes.txt").write_text("犬\n", encoding=encoding)
    assert open_dataset(folder, "train").classes.names == ("犬",)


@pytest.mark.parametrize(
    "text",
    [
        '{"images": [], "annotations": [], "categories": 7}',
        "[" * 100_000,
        '{"images": [{"id": ' + "9" * 5000 + "}]}",
        '{"images": [{"id": 1, "file_name": "a.png", "width": Infinity}], "categories": []}',
        '{"images": [{"id": 1, "file_name": {}}], "categories": []}',
        '{"images": [{"id": 1, "file_name": "a\\u0000.png"}], "categories": []}',
        '{"images": [], "categories": [{"id": 1, "name": ["x"]}]}',
    ],
)
def test_third_party_json_errors_are_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "annotations.json").write_text(text)
    with pytest.raises(UserError, match=r"annotations\.json") as caught:
        open_dataset(tmp_path, "train")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_opening_logs_one_line_of_contents(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_yolo(tmp_path)
    (folder / "train" / "labels" / "0.txt").write_text("0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0 0.2\n")
    (folder / "train" / "images" / "notes.docx").touch()
    with caplog.at_level("INFO", logger="detrscope"):
        open_dataset(folder, "train")
    (line,) = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert "2 images, 2 boxes, 0 crowds, 1 classes" in line
    assert "1 x empty-box (such as 0.png)" in line and "1 x left-out-file (such as notes.docx)" in line
