"""Datasets that are written: cut by category, or converted."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from detrscope.core.errors import UserError
from detrscope.data import write_coco as write
from detrscope.data.convert import convert
from detrscope.data.dataset import DetectionDataset
from detrscope.data.open_dataset import open_dataset
from detrscope.data.subset import Counts, cut_subset
from tests.support.datasets import MakeCoco, box, picture
from tests.support.voc_folders import PAGES, SPLITS, write_voc


def names(dataset: DetectionDataset) -> set[str]:
    return {i.path.name for i in dataset.images}


@pytest.fixture
def farm(make_coco: MakeCoco) -> Path:
    """30 images: 1..12 with dogs, 13..15 with a crowd of dogs only, 16..25 with cats, then none."""
    rows = [box(i, 7, [1, 1, 9, 9]) for i in range(1, 13)]
    rows += [box(i, 7, [1, 1, 30, 9], iscrowd=1) for i in range(13, 16)]
    rows += [box(i, 1, [2, 2, 9, 9]) for i in range(16, 26)] + [box(1, 1, [3, 3, 9, 9])]
    return make_coco(rows, images=30)


def test_counts_with_and_without(farm: Path, tmp_path: Path) -> None:
    cut_subset(farm, ["dog"], tmp_path / "out", Counts(6, 5), Counts(4, 3), seed=1)
    train, val = (open_dataset(tmp_path / "out", split) for split in ("train", "val"))
    for part, with_dog, without in ((train, 6, 5), (val, 4, 3)):
        found = [len(part.annotations[i.id]) for i in part.images]
        assert sorted(found) == [0] * without + [1] * with_dog
        assert part.classes.ids == (7,) and part.classes.names == ("dog",)
        assert not {i.id for i in part.images} & {13, 14, 15}
    assert not names(train) & names(val)
    source = open_dataset(farm, "train")
    for image in train.images:
        assert image.path.read_bytes() == source.image(image.id).path.read_bytes()


def test_draw_depends_on_seed_not_on_validation(farm: Path, tmp_path: Path) -> None:
    def cut(name: str, seed: int, val: Counts | None = None) -> set[str]:
        return names(cut_subset(farm, ["dog"], tmp_path / name, Counts(6, 5), val, seed=seed)["train"])

    first = cut("a", 1)
    assert cut("b", 1) == first == cut("c", 1, Counts(4, 3))
    assert cut("d", 2) != first


def test_several_categories_and_all_categories(farm: Path, tmp_path: Path) -> None:
    every = cut_subset(farm, ["dog", "cat"], tmp_path / "a", Counts(None, 5))["train"]
    assert len(every) == 22 + 5 and every.classes.names == ("cat", "dog")
    neighbours = cut_subset(farm, ["dog"], tmp_path / "b", Counts(None), all_categories=True)["train"]
    assert len(neighbours.annotations[1]) == 2 and len(neighbours.classes) == 3


def test_validation_from_another_split(farm: Path, make_coco: MakeCoco, tmp_path: Path) -> None:
    make_coco([box(i, 7, [1, 1, 9, 9]) for i in range(1, 4)], images=5, folder=farm, split="val")
    parts = cut_subset(farm, ["dog"], tmp_path / "o", Counts(12, 0), Counts(3, 2), val_split="val")
    assert len(parts["val"]) == 5 and all(i.path.parent.name == "val" for i in parts["val"].images)


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (Counts(13), None, "13 images with dog are asked for, there are 12"),
        (Counts(1, 16), None, "16 images without dog are asked for, there are 15"),
        (Counts(10), Counts(3), "3 images with dog are asked for, there are 2 besides those for training"),
    ],
)
def test_too_few_images_are_refused(
    farm: Path, tmp_path: Path, train: Counts, val: Counts | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        cut_subset(farm, ["dog"], tmp_path / "out", train, val)
    assert not (tmp_path / "out").exists()


def test_an_unknown_category_names_the_nearest(farm: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="class 'dgo' is not known; did you mean 'dog'"):
        cut_subset(farm, ["dgo"], tmp_path / "out", Counts(1))


def test_real_coco_keeps_licences_and_masks(shared_data: Path, tmp_path: Path) -> None:
    cut_subset(shared_data / "coco-tiny", ["person"], tmp_path / "out", Counts(5, 5))
    tree = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    assert tree["categories"] == [{"id": 1, "name": "person"}]
    assert len(tree["images"]) == 10 and all("license" in i and "flickr_url" in i for i in tree["images"])
    assert tree["licenses"] and all(a["segmentation"] for a in tree["annotations"])


def test_voc_converts_by_one_call(tmp_path: Path) -> None:
    write_voc(tmp_path / "BCCD", PAGES, SPLITS)
    convert(f"voc:{tmp_path}", tmp_path / "out")
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
    picture(40, 30).save(tmp_path / "y" / "images" / "a.png")
    (tmp_path / "y" / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "y" / "classes.txt").write_text("cat\n")
    convert(f"yolo:{tmp_path / 'y'}", tmp_path / "out")
    assert open_dataset(tmp_path / "out", "train").annotations[1][0].bbox_xywh == (10, 7.5, 20, 15)


def test_names_that_repeat_in_several_folders(tmp_path: Path) -> None:
    for sub in ("x", "y"):
        (tmp_path / "set" / "images" / sub).mkdir(parents=True)
        picture(40, 30, seed=ord(sub)).save(tmp_path / "set" / "images" / sub / "a.png")
        (tmp_path / "set" / "labels" / sub).mkdir(parents=True)
        (tmp_path / "set" / "labels" / sub / "a.txt").touch()
    (tmp_path / "set" / "classes.txt").write_text("cat\n")
    convert(f"yolo:{tmp_path / 'set'}", tmp_path / "out")
    assert {p.name for p in (tmp_path / "out" / "train").iterdir()} == {"a.png", "2_a.png"}


@pytest.mark.parametrize("files", ["hardlink", "symlink"])
def test_links(farm: Path, tmp_path: Path, files: write.Files) -> None:
    convert(farm, tmp_path / "out", files=files)
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
        convert(farm, tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []
    monkeypatch.undo()
    (tmp_path / "deep" / "out").mkdir()
    convert(farm, tmp_path / "deep" / "out")
    with pytest.raises(UserError, match="out: already exists"):
        convert(farm, tmp_path / "deep" / "out")
    assert len(open_dataset(tmp_path / "deep" / "out", "train")) == 30


def test_a_missing_image_stops_unless_it_may_be_skipped(farm: Path, tmp_path: Path) -> None:
    (farm / "train" / "3.png").unlink()
    with pytest.raises(UserError, match=r"3\.png: no such image file"):
        convert(farm, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(convert(farm, tmp_path / "out", skip_unreadable=True)["train"]) == 29
