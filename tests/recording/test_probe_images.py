"""Probe images: their sources, their ground truth, and the errors and warnings about them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.data.dataset import DetectionDataset
from detrscope.data.drawn_dogs import write_drawn
from detrscope.data.open_dataset import open_dataset
from detrscope.recording.probe_images import MAX_UNCOUNTED, AnnotatedImage, open_probe_images
from detrscope.training.config import RunConfig, resolve_training_config
from detrscope.training.setup import resolve_run


@pytest.fixture(autouse=True)
def log_reaches_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "propagate", True)


@pytest.fixture(scope="module")
def dogs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probes") / "dogs"
    write_drawn(folder, count=10, size=64, seed=1)
    return folder


def training_set(dogs: Path) -> DetectionDataset:
    return open_dataset(f"coco:{dogs}", "train")


def probes_of(config: RunConfig, training: DetectionDataset) -> list[AnnotatedImage]:
    return open_probe_images(config, training.classes, training, None)


def config_with(images: Any, **more: Any) -> RunConfig:
    return resolve_training_config(overrides={"train.recording": {"images": str(images), **more}})


def write_images(folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(100 + i).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"p{i}.png")
    return folder


def test_a_folder_gives_images_without_ground_truth(dogs: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    probes = probes_of(config_with(images), training_set(dogs))
    assert [p.name for p in probes] == ["p0", "p1", "p2"]
    assert all(len(p.boxes_xyxy) == 0 and p.image.shape == (3, 20, 30) for p in probes)
    assert len(probes_of(config_with(images, count=2), training_set(dogs))) == 2
    assert probes_of(resolve_training_config(), training_set(dogs)) == [], "no probe images by default"


def test_a_dataset_gives_boxes_classes_and_parts(dogs: Path) -> None:
    training = training_set(dogs)
    probes = probes_of(config_with(f"coco:{dogs}", count=4), training)
    assert len(probes) == 4 and all(len(p.boxes_xyxy) for p in probes), "those with an object first"
    for probe in probes:
        image = next(i for i in training.images if i.path == probe.path)
        boxes = [a.bbox_xywh for a in training.annotations[image.id]]
        corners = [[x, y, x + w, y + h] for x, y, w, h in boxes]
        assert probe.boxes_xyxy.tolist() == corners and set(probe.labels.tolist()) == {0}
        assert "muzzle" in probe.parts_of(0)[0]


def test_segmentations_of_a_coco_set_give_object_and_background(tmp_path: Path, dogs: Path) -> None:
    folder = tmp_path / "set"
    (folder / "val").mkdir(parents=True)
    Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(folder / "val" / "1.png")
    square = [[4, 5, 14, 5, 14, 15, 4, 15]]
    tree = {
        "images": [{"id": 1, "file_name": "1.png", "width": 40, "height": 30}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 9, "bbox": [4, 5, 10, 10], "segmentation": square},
            {
                "id": 2,
                "image_id": 1,
                "category_id": 8,
                "bbox": [20, 5, 5, 5],
                "segmentation": [[20, 5, 25, 5, 25, 10]],
            },
            {"id": 3, "image_id": 1, "category_id": 9, "bbox": [0, 0, 40, 30], "iscrowd": 1},
        ],
        "categories": [{"id": 8, "name": "zebra"}, {"id": 9, "name": "Dog"}],
    }
    (folder / "annotations").mkdir()
    file = folder / "annotations" / "instances_val.json"
    file.write_text(json.dumps(tree))
    (probe,) = probes_of(config_with(f"coco:{folder}"), training_set(dogs))
    assert probe.labels.tolist() == [0] and probe.boxes_xyxy.tolist() == [[4, 5, 14, 15]], (
        "dog, no zebra, no crowd"
    )
    assert probe.parts_of(0)[0] == ("box", "outside the box"), "the crowd has no mask: only the box is sure"
    tree["annotations"] = tree["annotations"][:2]
    file.write_text(json.dumps(tree))
    (probe,) = probes_of(config_with(f"coco:{folder}"), training_set(dogs))
    names, masks = probe.parts_of(0)
    assert names == ("object", "other objects", "background")
    assert masks[0].sum() == 100 and masks[0, 5:15, 4:14].all() and masks[1].sum() > 0


def test_a_training_image_or_a_copy_of_one_is_warned_of(
    dogs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = training_set(dogs)
    images = write_images(tmp_path / "images")
    probes_of(config_with(images), training)
    assert "is a training image" not in caplog.text
    shutil.copy(training.images[3].path, images / "copied.png")
    probes_of(config_with(images), training)
    assert caplog.text.count("is a training image") == 1
    assert f"copied.png is a training image ({training.images[3].path})" in caplog.text
    caplog.clear()
    probes_of(config_with(dogs / "images"), training)
    assert caplog.text.count("is a training image") == 10


def test_wrong_sources_and_counts_are_refused(dogs: Path, tmp_path: Path) -> None:
    training = training_set(dogs)
    many = write_images(tmp_path / "many", MAX_UNCOUNTED + 1)
    with pytest.raises(
        UserError, match=rf"has {MAX_UNCOUNTED + 1} images; set the number .* train\.recording\.count=4"
    ):
        probes_of(config_with(many), training)
    assert len(probes_of(config_with(many, count=MAX_UNCOUNTED + 1), training)) == MAX_UNCOUNTED + 1
    with pytest.raises(UserError, match=r"train\.recording\.images: .*nowhere: no such file or folder"):
        probes_of(config_with(tmp_path / "nowhere"), training)
    with pytest.raises(UserError, match=r"no images or videos in this folder.*such as coco:DIR"):
        probes_of(config_with(dogs), training)
    with pytest.raises(UserError, match=r"train\.recording\.split is test: expected val"):
        resolve_training_config(overrides={"train.recording.split": "test"})
    with pytest.raises(UserError, match=r"taken from data\.val_split, and there is none"):
        probes_of(resolve_training_config(overrides={"train.recording.count": 2}), training)


def test_probe_images_option_overrides_the_count_of_a_preset() -> None:
    preset = resolve_run(preset="drawn-dogs").train.recording
    assert preset.count == 6 and preset.images is None
    recording = resolve_run(preset="drawn-dogs", probe_images="folder").train.recording
    assert (recording.images, recording.count, recording.every) == ("folder", 0, preset.every)
    some = resolve_run(preset="drawn-dogs", probe_images="x", overrides={"train.recording.count": 3})
    assert some.train.recording.count == 3
