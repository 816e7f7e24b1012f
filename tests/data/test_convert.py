"""Datasets converted to COCO's layout."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from detrscope.core.errors import UserError
from detrscope.data import write_coco
from detrscope.data.convert import convert_dataset
from detrscope.data.open_dataset import open_dataset
from tests.support.datasets import MakeCoco, noise_image
from tests.support.voc_folders import PAGES, SPLITS, write_voc


def test_voc_converts_by_one_call(tmp_path: Path) -> None:
    write_voc(tmp_path / "BCCD", PAGES, SPLITS)
    convert_dataset(f"voc:{tmp_path}", tmp_path / "out")
    assert {p.name for p in (tmp_path / "out" / "annotations").iterdir()} == {
        "instances_train.json",
        "instances_val.json",
    }
    for split in ("train", "val"):
        before, after = open_dataset(tmp_path / "BCCD", split), open_dataset(tmp_path / "out", split)
        assert after.coco_json() == before.coco_json()
        assert all(i.path.parent == tmp_path / "out" / split for i in after.images)


def test_yolo_and_single_layouts_convert(tmp_path: Path, make_coco: MakeCoco) -> None:
    (tmp_path / "y" / "images").mkdir(parents=True)
    (tmp_path / "y" / "labels").mkdir()
    noise_image(40, 30).save(tmp_path / "y" / "images" / "a.png")
    (tmp_path / "y" / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "y" / "classes.txt").write_text("cat\n")
    convert_dataset(f"yolo:{tmp_path / 'y'}", tmp_path / "out")
    assert open_dataset(tmp_path / "out", "train").annotations[1][0].bbox_xywh == (10, 7.5, 20, 15)


def test_names_that_repeat_in_several_folders(tmp_path: Path) -> None:
    for sub in ("x", "y"):
        (tmp_path / "set" / "images" / sub).mkdir(parents=True)
        noise_image(40, 30, seed=ord(sub)).save(tmp_path / "set" / "images" / sub / "a.png")
        (tmp_path / "set" / "labels" / sub).mkdir(parents=True)
        (tmp_path / "set" / "labels" / sub / "a.txt").touch()
    (tmp_path / "set" / "classes.txt").write_text("cat\n")
    convert_dataset(f"yolo:{tmp_path / 'set'}", tmp_path / "out")
    assert {p.name for p in (tmp_path / "out" / "train").iterdir()} == {"a.png", "2_a.png"}


@pytest.mark.parametrize("files", ["hardlink", "symlink"])
def test_links(farm: Path, tmp_path: Path, files: write_coco.Files) -> None:
    convert_dataset(farm, tmp_path / "out", files=files)
    link, original = tmp_path / "out" / "train" / "1.png", farm / "train" / "1.png"
    assert link.is_symlink() == (files == "symlink")
    assert os.path.samefile(link, original)


def test_written_whole_or_not_at_all(farm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copyfile, calls = shutil.copyfile, []

    def interrupted(*arguments: object) -> None:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        copyfile(*arguments)

    monkeypatch.setattr(shutil, "copyfile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_dataset(farm, tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []
    monkeypatch.undo()
    (tmp_path / "deep" / "out").mkdir()
    convert_dataset(farm, tmp_path / "deep" / "out")
    with pytest.raises(UserError, match="out: already exists"):
        convert_dataset(farm, tmp_path / "deep" / "out")
    assert len(open_dataset(tmp_path / "deep" / "out", "train")) == 30


def test_a_missing_image_stops_unless_it_may_be_skipped(farm: Path, tmp_path: Path) -> None:
    (farm / "train" / "3.png").unlink()
    with pytest.raises(UserError, match=r"3\.png: no such image file"):
        convert_dataset(farm, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(convert_dataset(farm, tmp_path / "out", skip_unreadable=True)["train"]) == 29
