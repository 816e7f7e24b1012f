"""Sources: the layouts that are recognised, and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detrscope.core.errors import UserError
from detrscope.data.open_dataset import SOURCE_FORMATS, open_dataset, splits_of
from tests.support.datasets import MakeCoco, box, noise_image

TREE = {
    "images": [{"id": 5, "file_name": "a.png", "width": 40, "height": 30}],
    "annotations": [box(5, 1, [1, 2, 3, 4], id=1)],
    "categories": [{"id": 1, "name": "cat"}],
}


def lay_out(root: Path, annotations: str, image: str) -> Path:
    for name in (annotations, image):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / annotations).write_text(json.dumps(TREE))
    noise_image(40, 30).save(root / image)
    return root


@pytest.mark.parametrize(
    ("annotations", "image", "split"),
    [
        ("annotations/instances_train.json", "train/a.png", "train"),
        ("annotations/instances_train2017.json", "train2017/a.png", "train"),
        ("annotations/instances_train2017.json", "train2017/a.png", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017/a.png", "train"),
        ("annotations/instances_train.json", "images/a.png", "train"),
        ("annotations/instances_train.json", "a.png", "train"),
        ("annotations/instances_default.json", "images/default/a.png", "default"),
        ("annotations/train.json", "train/a.png", "train"),
        ("annotations/instances_val2017.json", "val2017/a.png", "valid"),
        ("valid/_annotations.coco.json", "valid/a.png", "val"),
        ("train/labels.json", "train/data/a.png", "train"),
        ("train/annotations.json", "train/images/a.png", "train"),
        ("annotations.json", "images/a.png", "whatever"),
        ("labels.json", "data/a.png", "train"),
        ("train.json", "train/a.png", "train"),
    ],
)
def test_coco_layouts(tmp_path: Path, annotations: str, image: str, split: str) -> None:
    folder = lay_out(tmp_path / "set", annotations, image)
    for source in (f"coco:{folder}", str(folder), folder, str(folder / annotations)):
        dataset = open_dataset(source, split)
        assert dataset.images[0].path == folder / image
        assert dataset.annotations[5][0].bbox_xywh == (1, 2, 3, 4)


def test_repeated_names_resolve_to_the_folder_of_the_split(make_coco: MakeCoco) -> None:
    folder = make_coco(split="train")
    make_coco(split="val", folder=folder)
    for split in ("train", "val"):
        assert all(i.path.parent.name == split for i in open_dataset(folder, split).images)


def test_captions_and_keypoints_are_not_splits(make_coco: MakeCoco) -> None:
    folder = make_coco()
    for name in ("captions_train", "person_keypoints_train"):
        (folder / "annotations" / f"{name}.json").write_text("{}")
    assert splits_of(folder) == ("train",)


def test_file_names_with_folders(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "set", "annotations/instances_train.json", "train/deep/a.png")
    for name in ("deep/a.png", "train/deep/a.png", "deep\\a.png"):
        tree = {**TREE, "images": [{"id": 5, "file_name": name}]}
        (root / "annotations/instances_train.json").write_text(json.dumps(tree))
        assert open_dataset(root, "train").images[0].path.is_file()
    lay_out(root, "annotations/instances_val.json", "val/a.png")
    tree = {**TREE, "images": [{"id": 5, "file_name": "/home/someone/else/a.png"}]}
    (root / "annotations/instances_val.json").write_text(json.dumps(tree))
    assert open_dataset(root, "val").images[0].path == root / "val/a.png"


def test_other_annotations_for_the_same_images(make_coco: MakeCoco, tmp_path: Path) -> None:
    folder = make_coco([box(1, 1, [1, 1, 5, 5])])
    other = tmp_path / "elsewhere" / "mine.json"
    other.parent.mkdir()
    tree = json.loads((folder / "annotations" / "instances_train.json").read_text())
    tree["annotations"] = []
    other.write_text(json.dumps(tree))
    dataset = open_dataset(folder / "train", "train", annotations=other)
    assert dataset.images[0].path.is_file() and dataset.annotations[1] == ()
    with pytest.raises(UserError, match=r"no\.json: no such annotation file"):
        open_dataset(folder, "train", annotations=tmp_path / "no.json")


def test_wrong_sources(make_coco: MakeCoco, tmp_path: Path) -> None:
    folder = make_coco()
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").touch()
    for source, split, message in (
        (tmp_path / "nothing", "train", "nothing: no such folder"),
        (f"coco:{tmp_path}/nothing", "train", "no such folder"),
        (
            tmp_path / "empty",
            "train",
            "the layout is not recognised; expected one of: coco: .* yolo: .* voc: ",
        ),
        (f"voc:{folder}", "train", "not the layout of voc; expected Annotations"),
        (f"yolo:{folder}", "train", "not the layout of yolo; expected data.yaml"),
        (f"yolo:{folder}", "train", f"; it has the layout of coco: give coco:{folder}"),
        (f"cocco:{folder}", "train", "'cocco:' is not a known dataset format; did you mean 'coco'"),
        ("C:\\data", "train", "no such folder"),  # a drive is no prefix
        (folder, "trian", "no split 'trian'; did you mean 'train'"),
        (folder, "val", "no split 'val'"),
        (tmp_path / "no.json", "train", "no such annotation file"),
        (tmp_path / "text.txt", "train", "expected a folder, a .json of COCO"),
    ):
        with pytest.raises(UserError, match=message):
            open_dataset(source, split)


def test_ambiguity_is_refused(make_coco: MakeCoco) -> None:
    folder = make_coco()
    make_coco(folder=folder, split="train2017")
    with pytest.raises(UserError, match="split 'training' may be train or train2017"):
        open_dataset(folder, "training")
    (folder / "images" / "train").mkdir(parents=True)
    (folder / "classes.txt").write_text("cat\n")
    with pytest.raises(UserError, match="may be coco or yolo; choose one, such as coco:"):
        open_dataset(folder, "train")
    assert len(open_dataset(f"coco:{folder}", "train")) == 2


def test_every_format_describes_its_layout() -> None:
    assert set(SOURCE_FORMATS) >= {"coco", "yolo", "voc"}
    assert all(source.layout for source in SOURCE_FORMATS.values())
