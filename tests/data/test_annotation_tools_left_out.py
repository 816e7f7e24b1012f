"""Exports of annotation tools: what belongs to no image, split or object is named, and no image without objects."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from detrscope.core.errors import UserError
from detrscope.data.check import check
from detrscope.data.dataset import DetectionDataset
from detrscope.data.open_dataset import open_dataset, splits_of
from detrscope.data.repair import repair
from tests.support.dataset_folders import write_coco_json
from tests.support.datasets import noise_image
from tests.support.tool_folders import (
    annotation,
    crowdhuman_line,
    cvat_image,
    labelme_shape,
    person,
    region,
    save,
    task,
    write_cvat,
    write_labelme,
    write_tasks,
)

BOX = [[10, 20], [40, 60]]  # two corners
REGION = region("rectanglelabels", {"x": 10, "y": 20, "width": 20, "height": 50})
CVAT_BOX = '<box label="{}" xtl="10" ytl="20" xbr="40" ybr="60"/>'


def names(dataset: DetectionDataset) -> list[str]:
    return [image.path.name for image in dataset.images]


def problems(source: str | Path) -> dict[str, list[tuple[str, str]]]:
    """Return file name and reason of each problem by kind."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for p in check(source).problems:
        found[p.kind].append((Path(p.file).name, p.reason))
    return found


# Label Studio


@pytest.mark.parametrize(
    "annotations",
    [
        (),
        (annotation(REGION, was_cancelled=True),),
        ({"id": 1, "result": None},),
        ({"id": 1},),
        (7,),
    ],
)
def test_tasks_that_nobody_labelled_are_left_out(
    annotations: tuple[Any, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tasks(
        tmp_path / "x.json",
        task("a.png", annotation(REGION)),
        task("b.png", *annotations),
        task("c.png", annotation()),
    )
    for seed, name in enumerate("abc"):
        save(tmp_path / f"{name}.png", seed)
    with caplog.at_level("INFO"):
        dataset = open_dataset(tmp_path, "train")
    assert names(dataset) == ["a.png", "c.png"] and not dataset.annotations[2]
    assert "1 x unlabelled-task (such as x.json)" in caplog.text
    reason = "task 1 (b.png): no annotation with a result, so that nobody has labelled it"
    assert problems(tmp_path)["unlabelled-task"] == [("x.json", reason)]
    assert repair(tmp_path, tmp_path / "out").done["images that nobody labelled left out"] == 1


def test_an_annotation_without_result_gives_way(tmp_path: Path) -> None:
    write_tasks(tmp_path / "x.json", task("a.png", annotation(REGION), {"id": 2, "updated_at": "2030"}))
    save(tmp_path / "a.png")
    assert len(open_dataset(tmp_path, "train").annotations[1]) == 1
    assert problems(tmp_path)["unused-annotation"] == [
        ("x.json", "task 0 (a.png): annotation 2 has no result")
    ]


@pytest.mark.parametrize("files", [("train/p1.json", "train/p2.json"), ("train.json", "train/x.json")])
def test_all_label_studio_exports_of_a_split_are_read(files: tuple[str, ...], tmp_path: Path) -> None:
    for seed, (file, name) in enumerate(zip(files, ("a.png", "b.png"), strict=True)):
        shape = {**REGION, "value": {**REGION["value"], "rectanglelabels": [name[0]]}}
        write_tasks(tmp_path / file, task(name, annotation(shape)))
        save((tmp_path / file).parent / name, seed)
    assert splits_of(tmp_path) == ("train",)
    dataset = open_dataset(tmp_path, "train")
    assert sorted(names(dataset)) == ["a.png", "b.png"] and dataset.classes.names == ("a", "b")
    assert all(image.path.is_file() for image in dataset.images)
    for image in dataset.images:
        (found,) = dataset.annotations[image.id]
        assert dataset.classes.name_of(found.category_id) == image.path.stem


def test_rows_of_label_studio_without_a_region_are_counted(tmp_path: Path) -> None:
    alone = {**region("labels", {}, "cow"), "id": "gone"}
    choice = {"type": "choices", "value": {"choices": ["good"]}}
    write_tasks(tmp_path / "x.json", task("a.png", annotation(REGION, "text", alone, choice, None)))
    save(tmp_path / "a.png")
    assert len(open_dataset(tmp_path, "train").annotations[1]) == 1
    assert [reason for _, reason in problems(tmp_path)["unused-shape"]] == [
        "task 0: region 1 is 'text', no object",
        "task 0: region 4 is None, no object",
        "task 0: region 2 is a list of labels of 'gone', which is no region",
    ]


@pytest.mark.parametrize("files", [("x.json", "x.json"), ("train.json", "val.json")])
def test_one_original_is_not_two_uploads(files: tuple[str, str], tmp_path: Path) -> None:
    uploads = [
        f"/data/upload/1/{digit * 8}-{name}.png" for digit, name in (("1", "a"), ("2", "a"), ("3", "b"))
    ]
    tasks: dict[str, list[Any]] = defaultdict(list)
    for file, upload in zip((*files, files[1]), uploads, strict=True):
        tasks[file].append(task(upload, annotation(REGION)))
    for file, rows in tasks.items():
        write_tasks(tmp_path / file, *rows)
    save(tmp_path / "images" / "a.png", 1)
    save(tmp_path / "images" / "b.png", 2)
    found = problems(tmp_path)
    assert [name for name, _ in found["missing-image"]] == ["11111111-a.png", "22222222-a.png"]
    assert not found["one-file-two-images"] and not found["image-in-two-splits"]
    assert names(open_dataset(tmp_path, "val"))[-1] == "b.png"


def test_unnamed_exports_count_only_without_another_format(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("p1", "p2"):
        write_tasks(tmp_path / f"{name}.json", task("a.png", annotation(REGION)))
    (tmp_path / "images").mkdir()
    noise_image(64, 48).save(tmp_path / "images" / "a.png")
    with pytest.raises(UserError, match=r"the export may be p1\.json or p2\.json"):
        open_dataset(tmp_path, "train")
    write_coco_json(tmp_path / "annotations.json", ["a.png"])
    with caplog.at_level("INFO"):
        assert names(open_dataset(tmp_path, "train")) == ["a.png"]
    assert "not read beside coco" in caplog.text and "p1.json or p2.json" in caplog.text


# CVAT


@pytest.mark.parametrize("named", ["{}.xml", "{}/x.xml"])
def test_cvat_files_of_no_split_are_unused(named: str, tmp_path: Path) -> None:
    for seed, (file, label) in enumerate(
        ((named.format("train"), "dog"), (named.format("val"), "cat"), ("extra.xml", "emu"))
    ):
        page = cvat_image(0, f"{label}.png", CVAT_BOX.format(label))
        write_cvat(tmp_path / file, page, labels=f"<label><name>{label}</name></label>")
        save((tmp_path / file).parent / f"{label}.png", seed)
    assert splits_of(tmp_path) == ("train", "val")
    train = open_dataset(tmp_path, "train")
    assert names(train) == ["dog.png"] and train.classes.names == ("dog", "cat")
    assert problems(tmp_path)["unused-file"] == [("extra.xml", "in none of the splits train, val")]


def test_a_cvat_task_without_images_is_unused_beside_others(tmp_path: Path) -> None:
    write_cvat(tmp_path / "empty.xml")
    with pytest.raises(UserError, match=r"empty\.xml: not CVAT for images: neither <image> nor <track>"):
        open_dataset(tmp_path, "train")
    write_cvat(tmp_path / "one.xml", cvat_image(0, "a.png", CVAT_BOX.format("dog")))
    save(tmp_path / "a.png")
    assert names(open_dataset(tmp_path, "train")) == ["a.png"]
    assert [file for file, _ in problems(tmp_path)["unused-file"]] == ["empty.xml"]


# LabelMe


@pytest.mark.parametrize("difficult", [(True, False), (False, True), (True, True), (False, False)])
def test_a_difficult_part_makes_a_group_difficult(difficult: tuple[bool, ...], tmp_path: Path) -> None:
    parts = [[[0, 0], [10, 0], [0, 10]], [[50, 50], [60, 50], [50, 60]]]
    shapes = [
        labelme_shape("dog", part, "polygon", group_id=7, difficult=flag)
        for part, flag in zip(parts, difficult, strict=True)
    ]
    write_labelme(tmp_path / "a.json", shapes)
    (found,) = open_dataset(tmp_path, "train").annotations[1]
    assert found.iscrowd is any(difficult)


def test_labelme_files_outside_the_splits_are_unused(tmp_path: Path) -> None:
    for file in ("train/a.json", "train/deep/b.json", "val/c.json", "d.json", "more/e.json"):
        write_labelme(tmp_path / file, [labelme_shape(Path(file).stem, BOX)])
    assert splits_of(tmp_path) == ("train", "val")
    train = open_dataset(tmp_path, "train")
    assert len(train) == 2 and train.classes.names == ("a", "b", "c")
    reason = "in none of the splits train, val"
    assert problems(tmp_path)["unused-file"] == [("d.json", reason), ("e.json", reason)]


def test_images_named_through_a_parent_folder_are_used(tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b")):
        split = ("train", "val")[seed]
        write_labelme(
            tmp_path / "labelme" / split / f"{name}.json",
            [labelme_shape("dog", BOX)],
            f"../images/{name}.png",
        )
        write_cvat(
            tmp_path / "cvat" / split / "x.xml",
            cvat_image(0, f"../images/{name}.png", CVAT_BOX.format("dog")),
        )
        for tool in ("labelme", "cvat"):
            save(tmp_path / tool / "images" / f"{name}.png", seed)
    for tool in ("labelme", "cvat"):
        assert not problems(tmp_path / tool)["unused-images"]
        (image,) = open_dataset(tmp_path / tool, "val").images
        assert image.path == tmp_path / tool / "images" / "b.png"


def test_links_keep_the_path_that_leads_to_the_image(tmp_path: Path) -> None:
    write_labelme(tmp_path / "far" / "json" / "a.json", [labelme_shape("dog", BOX)], "../images/a.png")
    save(tmp_path / "far" / "images" / "a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train").symlink_to(tmp_path / "far" / "json", target_is_directory=True)
    (image,) = open_dataset(f"labelme:{tmp_path / 'set'}", "train").images
    assert image.path.is_file()


# CrowdHuman


def test_two_crowdhuman_files_of_a_split_are_refused(tmp_path: Path) -> None:
    for file in ("annotation_train.odgt", "annotations/train.odgt", "annotation_val.odgt"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(crowdhuman_line("27", person([1, 2, 30, 40])))
    save(tmp_path / "Images" / "27.jpg")
    with pytest.raises(UserError, match=r"'train' may be annotation_train\.odgt or annotations.train\.odgt"):
        open_dataset(tmp_path, "train")
    assert len(open_dataset(tmp_path, "val")) == 1
