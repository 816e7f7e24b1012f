"""YOLO: its layouts, its lines, and agreement with supervision."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from detrscope.core.errors import UserError
from detrscope.data.open_dataset import open_dataset, read_dataset, splits_of
from detrscope.data.validation_log import ValidationLog
from tests.support.datasets import noise_image, with_orientation

LABELS = "0 0.5 0.5 0.25 0.5\n1 0.1 0.2 0.1 0.1 0.87\n"


def lay_out(root: Path, image: str, labels: str | None, text: str = LABELS) -> None:
    (root / image).parent.mkdir(parents=True, exist_ok=True)
    noise_image(80, 40).save(root / image)
    if labels:
        (root / labels).parent.mkdir(parents=True, exist_ok=True)
        (root / labels).write_text(text)


@pytest.mark.parametrize(
    ("image", "labels", "extra", "content"),
    [
        ("images/val/a.png", "labels/val/a.txt", "data.yaml", "names: [cat, dog]\nval: images/val\n"),
        (
            "images/val/a.png",
            "labels/val/a.txt",
            "data.yaml",
            "names: {0: cat, 1: dog}\npath: .\nval: images/val\n",
        ),
        (
            "images/val/a.png",
            "labels/val/a.txt",
            "my.yaml",
            "path: /on/another/machine\nval: images/val\nnames: [cat, dog]\n",
        ),
        (
            "valid/images/a.png",
            "valid/labels/a.txt",
            "data.yaml",
            "names: [cat, dog]\nval: ../valid/images\n",
        ),
        (
            "images/val/sub/a.png",
            "labels/val/sub/a.txt",
            "data.yaml",
            "names: [cat, dog]\nval: [images/val]\n",
        ),
        ("images/a.png", "labels/a.txt", "data.yaml", "names: [cat, dog]\nval: val.txt\n"),
        ("images/val/a.png", "labels/val/a.txt", "classes.txt", "cat\ndog\n"),
        ("val/images/a.png", "val/labels/a.txt", "classes.txt", "cat\ndog\n"),
        ("images/a.png", "labels/a.txt", "classes.txt", "cat\ndog\n"),
        ("val/a.png", "val/a.txt", "obj.names", "cat\ndog\n"),
    ],
)
def test_layouts(tmp_path: Path, image: str, labels: str, extra: str, content: str) -> None:
    lay_out(tmp_path, image, labels)
    (tmp_path / extra).write_text(content)
    (tmp_path / "val.txt").write_text("./images/a.png\n\n")
    for source in (f"yolo:{tmp_path}", tmp_path):
        dataset = open_dataset(source, "val")
        assert dataset.classes.names == ("cat", "dog") and dataset.classes.ids == (0, 1)
        assert [i.path.name for i in dataset.images] == ["a.png"]
        found = [(a.category_id, *a.bbox_xywh, a.area) for a in dataset.annotations[1]]
        assert np.allclose(found, [(0, 30, 10, 20, 20, 400), (1, 4, 6, 8, 4, 32)])


def test_polygons_turned_boxes_and_keypoints(tmp_path: Path) -> None:
    text = "0 0.1 0.1 0.3 0.1 0.3 0.5\n1 0.5 0.25 0.75 0.5 0.5 0.75 0.25 0.5\n"
    lay_out(tmp_path, "images/train/a.png", "labels/train/a.txt", text)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    first, second = open_dataset(tmp_path, "train", details=True).annotations[1]
    assert first.bbox_xywh == pytest.approx((8, 4, 16, 16))
    assert first.area == pytest.approx(128)
    assert first.segmentation[0] == pytest.approx([8, 4, 24, 4, 24, 20])
    assert second.bbox_xywh == pytest.approx((20, 10, 40, 20))
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "data.yaml").write_text("names: [cat]\nkpt_shape: [2, 3]\ntrain: images/train\n")
    (tmp_path / "labels/train/a.txt").write_text("0 0.5 0.5 0.25 0.5 0.1 0.1 2 0.2 0.2 2\n")
    (only,) = open_dataset(tmp_path, "train").annotations[1]
    assert only.bbox_xywh == pytest.approx((30, 10, 20, 20))


def test_images_without_labels_are_negatives(tmp_path: Path) -> None:
    lay_out(tmp_path, "images/train/a.png", "labels/train/a.txt", "")
    lay_out(tmp_path, "images/train/b.png", None)
    lay_out(tmp_path, "images/train/c.png", "labels/train/c.txt")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    dataset = open_dataset(tmp_path, "train")
    assert [len(dataset.annotations[i.id]) for i in dataset.images] == [0, 0, 2]


def test_boxes_are_of_the_upright_image(tmp_path: Path) -> None:
    lay_out(tmp_path, "images/train/a.png", "labels/train/a.txt", "0 0.5 0.5 1 0.5\n")
    with_orientation(noise_image(80, 40), tmp_path / "images/train/a.png", 6)
    (tmp_path / "classes.txt").write_text("cat\n")
    assert open_dataset(tmp_path, "train").annotations[1][0].bbox_xywh == (0, 10, 80, 20)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2", "line 2 is '0 0.5 0.5 0.2', expected"),
        ("0 0.5 x 0.2 0.2", "line 2"),
        ("0.5 0.5 0.5 0.2 0.2", "line 2"),
        ("2 0.5 0.5 0.2 0.2", r"a\.png: annotation 2: category id 2 .* is not declared"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    lay_out(tmp_path, "images/train/a.png", "labels/train/a.txt", f"0 0.5 0.5 0.2 0.2\n{line}\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(UserError, match=message):
        open_dataset(tmp_path, "train")
    validation = ValidationLog("train", strict=False)
    assert len(read_dataset(tmp_path, "train", validation).annotations[1]) == 1
    assert [(p.severity, p.annotation) for p in validation.problems] == [("error", 2)]


def test_wrong_yaml_is_named(tmp_path: Path) -> None:
    lay_out(tmp_path, "images/train/a.png", None)
    for content, message in (
        ("names: {1: cat, 3: dog}\ntrain: images/train\n", "must be 0, 1, 2"),
        ("names: cat\ntrain: images/train\n", "must be a list"),
        ("names: [", "not valid YAML"),
    ):
        (tmp_path / "data.yaml").write_text(content)
        with pytest.raises(UserError, match=f"data.yaml.*{message}"):
            open_dataset(f"yolo:{tmp_path}", "train")


def test_splits(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        lay_out(tmp_path, f"{split}/images/a.png", f"{split}/labels/a.txt")
    (tmp_path / "data.yaml").write_text(
        "names: [cat, dog]\ntrain: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    )
    assert splits_of(tmp_path) == ("train", "val")


def test_agrees_with_supervision(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import supervision as sv
    random = np.random.default_rng(0)
    for i in range(6):
        centres, sizes = random.uniform(0.3, 0.7, (i, 2)), random.uniform(0.01, 0.5, (i, 2))
        rows = [
            f"{random.integers(2)} {c[0]} {c[1]} {s[0]} {s[1]}" for c, s in zip(centres, sizes, strict=True)
        ]
        lay_out(tmp_path, f"images/train/{i}.png", f"labels/train/{i}.txt", "\n".join(rows))
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\ntrain: images/train\n")
    ours = open_dataset(tmp_path, "train")
    theirs = sv.DetectionDataset.from_yolo(
        str(tmp_path / "images/train"), str(tmp_path / "labels/train"), str(tmp_path / "data.yaml")
    )
    assert list(ours.classes.names) == theirs.classes
    for image in ours.images:
        expected = theirs.annotations[str(image.path)]
        found = np.array([a.bbox_xywh for a in ours.annotations[image.id]]).reshape(-1, 4)
        found[:, 2:] += found[:, :2]
        assert np.allclose(found, expected.xyxy.reshape(-1, 4), atol=1e-3)
        if len(found):  # supervision has no class ids at all where there are no boxes
            assert [a.category_id for a in ours.annotations[image.id]] == expected.class_id.tolist()


def test_labels_in_pixels_are_suspected(tmp_path: Path) -> None:
    lay_out(tmp_path, "images/train/a.png", "labels/train/a.txt", "0 40 20 10 10\n1 30 20 8 8\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    validation = ValidationLog("train", strict=False)
    read_dataset(tmp_path, "train", validation)
    assert [p.kind for p in validation.problems] == ["box-outside", "box-outside", "labels-like-pixels"]
