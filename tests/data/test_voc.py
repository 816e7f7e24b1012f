"""VOC: its layouts, its XML, and agreement with supervision."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from detrscope.core.errors import UserError
from detrscope.data import voc
from detrscope.data.open_dataset import open_dataset, read_dataset, splits_of
from detrscope.data.validation_log import ValidationLog
from tests.support.datasets import noise_image
from tests.support.voc_folders import PAGES, SPLITS, write_voc, xml


@pytest.mark.parametrize("inside", ["", "BCCD", "VOCdevkit/VOC2012"])
def test_image_sets(tmp_path: Path, inside: str) -> None:
    write_voc(tmp_path / inside, PAGES, SPLITS)
    for source in (f"voc:{tmp_path}", tmp_path):
        assert splits_of(source) == ("train", "val")
        train = open_dataset(source, "train")
        # All splits number the classes alike.
        assert train.classes.names == open_dataset(source, "val").classes.names == ("cat", "cow", "dog")
        assert train.classes.ids == (1, 2, 3)
        assert [i.path.name for i in train.images] == ["a.png", "c.png"]
        found = [(a.category_id, a.bbox_xywh, a.area) for a in train.annotations[1]]
        assert found == [(3, (1, 2, 10, 20), 200), (1, (5, 5, 4, 4), 16)]
        assert train.annotations[2] == ()
        val = open_dataset(source, "val")
        assert val.annotations[1][0].bbox_xywh == (3.5, 4.5, 9.5, 9.5)
        assert [len(val.annotations[i.id]) for i in val.images] == [1, 0]
        assert len(open_dataset(source, "trainval")) == 4


def test_without_image_sets_and_with_a_list_of_classes(tmp_path: Path) -> None:
    write_voc(tmp_path, PAGES)
    (tmp_path / "labels.txt").write_text("dog\ncat\ncow\n")
    dataset = open_dataset(tmp_path, "any")
    assert [i.path.stem for i in dataset.images] == ["a", "b", "c", "d"]
    assert dataset.classes.names == ("dog", "cat", "cow")
    (tmp_path / "labels.txt").write_text("dog\ncat\n")
    with pytest.raises(UserError, match=r"b\.xml: annotation 3: 'cow' is not in the list of classes"):
        open_dataset(tmp_path, "any")


def test_a_folder_per_split(tmp_path: Path) -> None:
    for split, stem in (("train", "a"), ("valid", "b")):
        (tmp_path / split).mkdir()
        noise_image(40, 30).save(tmp_path / split / f"{stem}.jpg")
        (tmp_path / split / f"{stem}.xml").write_text(PAGES[stem] or "")
    assert splits_of(tmp_path) == ("train", "valid")
    val = open_dataset(tmp_path, "val")
    assert val.images[0].path.name == "b.jpg" and val.classes.names == ("cat", "cow", "dog")


def test_difficult_objects_become_crowds(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": xml(("dog", (1, 2, 11, 22)), difficult=1)})
    assert open_dataset(tmp_path, "x").annotations[1][0].iscrowd


def test_pascal_boxes_are_one_based_and_inclusive(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": xml(("dog", (1, 1, 40, 30)), source="PASCAL VOC2012")})
    assert open_dataset(tmp_path, "x").annotations[1][0].bbox_xywh == (0, 0, 40, 30)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", r"a\.xml: not valid XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "document type declaration is not allowed"),
        (
            xml(("dog", (1, 2, 11, 22))).replace("<xmin>1</xmin>", ""),
            r"a\.xml: annotation 1: the bndbox of 'dog'",
        ),
        (xml().replace("<width>40", "<width>80"), "declared as 80x30, the file has 40x30"),
    ],
)
def test_wrong_pages_are_named(tmp_path: Path, text: str, message: str) -> None:
    write_voc(tmp_path, {"a": text, "b": PAGES["b"]})
    with pytest.raises(UserError, match=message):
        open_dataset(tmp_path, "x")
    validation = ValidationLog("x", strict=False)
    assert len(read_dataset(tmp_path, "x", validation)) == 2
    assert [p.severity for p in validation.problems] == ["error"]


def test_several_voc_folders_are_refused(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        write_voc(tmp_path / year, PAGES)
    with pytest.raises(UserError, match="holds several VOC folders"):
        open_dataset(f"voc:{tmp_path}", "train")


def test_agrees_with_supervision(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import supervision as sv
    write_voc(tmp_path, PAGES)
    ours = open_dataset(tmp_path, "x")
    theirs = sv.DetectionDataset.from_pascal_voc(str(tmp_path / "JPEGImages"), str(tmp_path / "Annotations"))
    for image in ours.images:
        expected = theirs.annotations[str(image.path)]
        rows = ours.annotations[image.id]
        found = np.array([a.bbox_xywh for a in rows]).reshape(-1, 4)
        found[:, 2:] += found[:, :2]
        found[:, :2] -= 1  # supervision takes every corner to count from 1
        assert np.allclose(found, expected.xyxy.reshape(-1, 4))
        names = [ours.classes.names[ours.classes.index_of(a.category_id)] for a in rows]
        assert names == ([theirs.classes[i] for i in expected.class_id] if rows else [])


def test_layout_names_image_sets() -> None:
    assert "ImageSets/Main" in voc.LAYOUT
