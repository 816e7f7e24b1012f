"""Unused files are reported, and ambiguous ones refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.data.check import check
from detrscope.data.image_files import FileIndex, scan_folder
from detrscope.data.open_dataset import open_dataset, splits_of
from tests.support.dataset_folders import write_coco_json, write_yolo
from tests.support.datasets import MakeCoco, box, noise_image
from tests.support.voc_folders import PAGES, SPLITS, write_voc


def kinds(source: object) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for problem in check(str(source)).problems:
        if problem.severity != "info" or problem.kind in ("left-out-file", "missing-split"):
            found.setdefault(problem.kind, []).append(Path(problem.file).name)
    return found


def test_unused_images_are_reported_once_per_folder(make_coco: MakeCoco) -> None:
    folder = make_coco([box(i, c, [1, 1, 9, 9]) for i, c in ((1, 1), (1, 7), (2, 900))])
    for i in range(3):
        noise_image(9, 9, seed=90 + i).save(folder / "train" / f"more{i}.png")
    (problem,) = [p for p in check(folder).problems if p.kind == "unused-images"]
    assert problem.reason == "3 images are in no split, such as more0.png"


def test_shared_label_folder_reports_only_unused_labels(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name in ("a", "b", "c"):
        noise_image(40, 30, seed=ord(name)).save(tmp_path / "images" / f"{name}.png")
        (tmp_path / "labels" / f"{name}.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "labels" / "gone.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "classes.txt").write_text("cat\n")
    (tmp_path / "train.txt").write_text("images/a.png\nimages/b.png\n")
    (tmp_path / "val.txt").write_text("images/c.png\n")
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: train.txt\nval: val.txt\ntest: nowhere\n")
    assert kinds(tmp_path) == {"unused-file": ["gone.txt"], "missing-split": [tmp_path.name]}
    (tmp_path / "data.yaml").unlink()  # the lists alone say as much
    (tmp_path / "images").rename(tmp_path / "pictures")
    for split in ("train", "val"):
        path = tmp_path / f"{split}.txt"
        path.write_text(path.read_text().replace("images", "pictures"))
    with pytest.raises(UserError, match="no label file for any of its 2 images"):
        open_dataset(tmp_path, "train")


def test_unlisted_xml_and_extra_images_are_reported(tmp_path: Path) -> None:
    write_voc(tmp_path, {**PAGES, "z": PAGES["a"]}, SPLITS)
    noise_image(40, 30, seed=5).save(tmp_path / "JPEGImages" / "a.bmp")
    found = kinds(tmp_path)
    assert sorted(found["unused-file"]) == ["a.png", "z.xml"]
    assert len(open_dataset(tmp_path, "train")) == 2


def test_only_a_test_split_may_lack_xml(tmp_path: Path) -> None:
    write_voc(tmp_path, PAGES, {"train": "d\n", "val": "a.png\n", "test": "d\n"})
    with pytest.raises(UserError, match=r"no XML for any of its 1 images, such as d\.png"):
        open_dataset(tmp_path, "train")
    assert len(open_dataset(tmp_path, "val").annotations[1]) == 2  # listed with its ending
    assert len(open_dataset(tmp_path, "test")) == 1


@pytest.mark.parametrize("name", ["annotations/instances_train.json", "train.json"])
def test_only_a_test_split_may_lack_annotations(name: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    noise_image(64, 48).save(tmp_path / "images" / "a.png")
    path = write_coco_json(tmp_path / name, ["a.png"])
    tree = json.loads(path.read_text())
    del tree["annotations"]
    path.write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"train\.json: no 'annotations'"):
        open_dataset(tmp_path, "train")
    path.rename(path.with_name(path.name.replace("train", "test")))
    assert len(open_dataset(tmp_path, "test")) == 1


@pytest.mark.parametrize(
    ("first", "second", "split"),
    [
        ("annotations/instances_train.json", "annotations/train.json", "train"),
        ("train/labels.json", "train/annotations.json", "train"),
        ("annotations.json", "result.json", "train"),
    ],
)
def test_two_annotation_files_of_a_split_are_refused(
    first: str, second: str, split: str, tmp_path: Path
) -> None:
    for name in (first, second):
        write_coco_json(tmp_path / name, ["a.png"])
    with pytest.raises(UserError, match=f"may be {first} or {second}"):
        open_dataset(f"coco:{tmp_path}", split)
    (tmp_path / second).unlink()
    assert len(open_dataset(f"coco:{tmp_path}", split)) == 1


def test_two_yaml_files_with_classes_are_refused(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    (folder / "compose.yaml").write_text("x: !Ref y\n")
    (folder / "data.yaml").rename(folder / "mine.yaml")
    assert splits_of(folder) == ("train",)
    (folder / "yours.yaml").write_text("names: [cat]\n")
    with pytest.raises(
        UserError, match=r"may be those of mine\.yaml or yours\.yaml; choose one, such as yolo:"
    ):
        open_dataset(folder, "train")
    (folder / "yours.yaml").rename(folder / "data.yaml")  # an exact name wins
    assert open_dataset(folder, "train").classes.names == ("cat",)


def test_names_differing_only_in_case_are_refused(tmp_path: Path) -> None:
    for name in ("A.png", "a.PNG"):
        (tmp_path / name).touch()
    index = FileIndex()
    assert index.find(tmp_path / "A.png") == tmp_path / "A.png"  # an exact name wins
    with pytest.raises(UserError, match=r"may be A\.png or a\.PNG"):
        index.find(tmp_path / "a.png")


def test_one_label_of_two_images_is_reported(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    noise_image(40, 40, seed=7).save(folder / "train" / "images" / "0.bmp")
    assert kinds(folder) == {"one-label-two-images": ["0.txt"]}


def test_hidden_and_linked_folders_are_reported_as_left_out(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path / "set")
    images = folder / "train" / "images"
    (images / ".ipynb_checkpoints").mkdir()
    (images / ".ipynb_checkpoints" / "0-checkpoint.png").write_bytes((images / "0.png").read_bytes())
    (images / "notes.docx").touch()
    os.symlink(tmp_path, images / "loop")
    assert kinds(folder) == {"left-out-file": [".ipynb_checkpoints", "loop", "notes.docx"]}
    (statistics,) = check(folder).statistics
    assert statistics.left_out == "3 x left-out-file (such as .ipynb_checkpoints)"
    assert [path.name for path in scan_folder(images).images] == ["0.png", "1.png"]


@pytest.mark.parametrize("name", ["._a.xml", "__MACOSX/a.xml", ".x/a.xml"])
def test_hidden_xml_makes_no_split(name: str, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.xml").write_text(PAGES["a"] or "")
    noise_image(40, 30).save(tmp_path / "train" / "a.png")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("junk")
    assert splits_of(f"voc:{tmp_path}") == ("train",)


def test_duplicate_class_names_are_reported(
    make_coco: MakeCoco,
) -> None:
    folder = make_coco([box(1, 1, [1, 1, 9, 9])], categories=[{"id": i, "name": "dog"} for i in (1, 5)])
    assert "duplicate-class-name" in kinds(folder)
    with pytest.raises(UserError, match="class 'dog' is the name of categories 1, 5"):
        ClassTable((1, 5), ("dog", "dog")).index_of_name("dog")


def test_boxes_are_derived_from_masks_of_both_kinds(make_coco: MakeCoco) -> None:
    counts = [30 * 4 + 5, 10, 20, 10, 40 * 30 - (30 * 4 + 45)]  # columns 4 and 5, rows 5 to 14
    rows = [
        {"image_id": 1, "category_id": 1, "segmentation": {"size": [30, 40], "counts": counts}},
        {"image_id": 1, "category_id": 1, "bbox": None, "segmentation": [["2", 3, 12, 3, 12, 8]]},
    ]
    dataset = open_dataset(make_coco(rows), "train")
    assert [a.bbox_xywh for a in dataset.annotations[1]] == [(4, 5, 2, 10), (2, 3, 10, 5)]


@pytest.mark.parametrize("layout", ["coco", "yolo", "voc", "yolo yaml"])
def test_folders_are_found_in_another_letter_case(layout: str, tmp_path: Path) -> None:
    noise_image(64, 48).save(tmp_path / "A.PNG")
    image, label = "Images/Train/A.PNG", "Labels/Train/a.TXT"
    if layout == "coco":
        image = "TRAIN/A.PNG"
        write_coco_json(tmp_path / "Annotations" / "Instances_Train.JSON", ["a.png"])
    elif layout == "voc":
        image, label = "Images/A.PNG", "annotations/a.xml"
        (tmp_path / label).parent.mkdir()
        (tmp_path / label).write_text((PAGES["a"] or "").replace(">40<", ">64<").replace(">30<", ">48<"))
    else:
        (tmp_path / label).parent.mkdir(parents=True)
        (tmp_path / label).write_text("0 .5 .5 .2 .2\n")
        (tmp_path / "classes.txt").write_text("cat\n")
        if layout == "yolo yaml":
            (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: Images\\Train\n")
    (tmp_path / image).parent.mkdir(parents=True)
    (tmp_path / "A.PNG").rename(tmp_path / image)
    dataset = open_dataset(tmp_path, "train")
    assert sum(map(len, dataset.annotations.values())) >= 1 and dataset.images[0].path == tmp_path / image


def test_lists_written_on_other_machines(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    lines = ["/content/drive/set/train/images/0.png", "C:\\set\\train\\images\\1.png", "train/images/._0.png"]
    (folder / "list.txt").write_text("\r\n".join(lines), encoding="utf-8-sig")
    (folder / "data.yaml").write_text("names: [dog]\ntrain: list.txt\n")
    dataset = open_dataset(folder, "train")
    assert [i.path for i in dataset.images] == [folder / "train" / "images" / f"{i}.png" for i in (0, 1)]


@pytest.mark.parametrize(
    ("first", "second"), [("train2014/a.png", "train2017/a.png"), ("images/a.png", "data/a.png")]
)
def test_different_files_of_one_name_are_refused(first: str, second: str, tmp_path: Path) -> None:
    for seed, name in enumerate((first, second)):
        (tmp_path / name).parent.mkdir()
        noise_image(64, 48, seed=seed).save(tmp_path / name)
    write_coco_json(tmp_path / "annotations" / "instances_train.json", ["a.png"])
    with pytest.raises(UserError, match=f"a.png may be .*{first} or .*{second}"):
        open_dataset(tmp_path, "train")
    (tmp_path / second).write_bytes((tmp_path / first).read_bytes())
    assert open_dataset(tmp_path, "train").images[0].path == tmp_path / first


def test_text_ids_are_reported(make_coco: MakeCoco) -> None:
    report = check(make_coco([box(1, 1, [1, 1, 9, 9], id="007")]))
    (problem,) = [p for p in report.problems if p.kind == "text-ids"]
    assert problem.reason == "1 ids of annotations are written as text, such as '007'"


@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_hidden_annotations_are_left_out_and_said_once(kind: str, tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    hidden = folder / "train" / "labels" / "._0.txt"
    if kind == "coco":
        write_coco_json(folder / "annotations" / "instances_train.json", ["0.png", "1.png"])
        write_coco_json(folder / "annotations" / "instances_val.json", ["0.png", "1.png"])
        hidden = folder / "annotations" / "._instances_train.json"
        (folder / "data.yaml").unlink()
    hidden.write_bytes(b"\0\5\26\7")
    left_out = [p for p in check(f"{kind}:{folder}").problems if p.kind == "left-out-file"]
    assert [Path(p.file) for p in left_out] == [hidden]
