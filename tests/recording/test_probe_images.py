"""Probe images: where they come from, what is known of them, and what is refused or warned of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.core.geometry import Geometry
from detrscope.core.snapshot import DenseRows, ProbeSnapshot
from detrscope.core.types import Level
from detrscope.data.dataset import DetectionDataset
from detrscope.data.drawn_dogs import write_drawn
from detrscope.data.open_dataset import open_dataset
from detrscope.data.part_masks import read_part_mask
from detrscope.recording.part_attention import PartAttention, PartMeter, attention_row
from detrscope.recording.probe_images import MOST, AnnotatedImage, open_probe_images
from detrscope.trace_interface import Trace
from detrscope.training.config import RunConfig, resolve
from detrscope.training.setup import resolve_run
from tests.support.traces import detector_of


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


def asked(images: Any, **more: Any) -> RunConfig:
    return resolve(overrides={"train.recording": {"images": str(images), **more}})


def other_pictures(folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(100 + i).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"p{i}.png")
    return folder


def test_a_plain_folder_gives_its_pictures_without_truth(dogs: Path, tmp_path: Path) -> None:
    pictures = other_pictures(tmp_path / "pictures")
    probes = probes_of(asked(pictures), training_set(dogs))
    assert [p.name for p in probes] == ["p0", "p1", "p2"]
    assert all(len(p.boxes_xyxy) == 0 and p.image.shape == (3, 20, 30) for p in probes)
    assert len(probes_of(asked(pictures, count=2), training_set(dogs))) == 2
    assert probes_of(resolve(), training_set(dogs)) == [], "nothing asked for, nothing watched"


def test_a_dataset_gives_boxes_classes_and_parts(dogs: Path) -> None:
    training = training_set(dogs)
    probes = probes_of(asked(f"coco:{dogs}", count=4), training)
    assert len(probes) == 4 and all(len(p.boxes_xyxy) for p in probes), "those with an object first"
    for probe in probes:
        image = next(i for i in training.images if i.path == probe.path)
        boxes = [a.bbox_xywh for a in training.annotations[image.id]]
        corners = [[x, y, x + w, y + h] for x, y, w, h in boxes]
        assert probe.boxes_xyxy.tolist() == corners and set(probe.labels.tolist()) == {0}
        assert "muzzle" in probe.regions(0)[0]


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
    (probe,) = probes_of(asked(f"coco:{folder}"), training_set(dogs))
    assert probe.labels.tolist() == [0] and probe.boxes_xyxy.tolist() == [[4, 5, 14, 15]], (
        "dog, no zebra, no crowd"
    )
    assert probe.regions(0)[0] == ("box", "outside the box"), "the crowd has no mask: only the box is sure"
    tree["annotations"] = tree["annotations"][:2]
    file.write_text(json.dumps(tree))
    (probe,) = probes_of(asked(f"coco:{folder}"), training_set(dogs))
    names, masks = probe.regions(0)
    assert names == ("object", "other objects", "background")
    assert masks[0].sum() == 100 and masks[0, 5:15, 4:14].all() and masks[1].sum() > 0


def test_a_training_image_or_a_copy_of_one_is_warned_of(
    dogs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = training_set(dogs)
    pictures = other_pictures(tmp_path / "pictures")
    probes_of(asked(pictures), training)
    assert "is a training image" not in caplog.text
    shutil.copy(training.images[3].path, pictures / "copied.png")
    probes_of(asked(pictures), training)
    assert caplog.text.count("is a training image") == 1
    assert f"copied.png is a training image ({training.images[3].path})" in caplog.text
    caplog.clear()
    probes_of(asked(dogs / "images"), training)
    assert caplog.text.count("is a training image") == 10


def test_what_cannot_be_meant_is_refused(dogs: Path, tmp_path: Path) -> None:
    training = training_set(dogs)
    many = other_pictures(tmp_path / "many", MOST + 1)
    with pytest.raises(
        UserError, match=rf"has {MOST + 1} pictures; say how many .* --train\.recording\.count=4"
    ):
        probes_of(asked(many), training)
    assert len(probes_of(asked(many, count=MOST + 1), training)) == MOST + 1
    with pytest.raises(UserError, match=r"train\.recording\.images: .*nowhere: no such file or folder"):
        probes_of(asked(tmp_path / "nowhere"), training)
    with pytest.raises(UserError, match=r"no pictures or videos in this folder.*such as coco:DIR"):
        probes_of(asked(dogs), training)
    with pytest.raises(UserError, match=r"train\.recording\.split is for a dataset"):
        resolve(overrides={"train.recording.split": "test"})
    with pytest.raises(UserError, match=r"those of data\.val_split, and there is none"):
        probes_of(resolve(overrides={"train.recording.count": 2}), training)


def test_the_alias_watches_all_of_the_folder_whatever_the_preset_says() -> None:
    preset = resolve_run(preset="drawn-dogs").train.recording
    assert preset.count == 6 and preset.images is None
    watch = resolve_run(preset="drawn-dogs", probe_images="folder").train.recording
    assert (watch.images, watch.count, watch.every) == ("folder", 0, preset.every)
    some = resolve_run(preset="drawn-dogs", probe_images="x", overrides={"train.recording.count": 3})
    assert some.train.recording.count == 3


def test_mass_on_parts_is_what_counting_pixels_gives(dogs: Path) -> None:
    """Cells are squares of sixteen pixels here: each pixel has a 256th of its cell's weight."""
    probes = probes_of(asked(f"coco:{dogs}", count=3), training_set(dogs))
    meter = PartMeter(probes)
    trace = _trace_of_size(64)
    rows = torch.rand(5, 16, generator=torch.Generator().manual_seed(0)).softmax(-1).half()
    ids = torch.tensor([2, 3, 5, 7, 9])
    look = ProbeSnapshot(
        ids, torch.zeros(1, 5, 2).half(), torch.zeros(1, 5, 4), (DenseRows(rows, rows.mean(0)),)
    )
    for probe in probes:
        parts, instance, _ = read_part_mask(probe.path)
        matched = {index: int(ids[-1 - index]) for index in range(len(probe.labels))}
        found = meter.measure(probe.name, trace, look, matched)
        for index in matched:
            pixels = np.kron(rows[len(ids) - 1 - index].float().view(4, 4).numpy(), np.ones((16, 16))) / 256
            own = instance == index + 1
            wanted = {"object": own, "ears": own & (parts == 3), "background": instance == 0}
            for name, mask in wanted.items():
                if mask.any():
                    expected = (float(pixels[mask].sum()), float(mask.mean()))
                    pairs = [(one.mass, one.area) for one in found if one.name == name]
                    assert any(pair == pytest.approx(expected, abs=1e-5) for pair in pairs), name


def test_a_row_is_the_mean_over_the_objects_that_show_the_part() -> None:
    found = [
        PartAttention("ears", 0.2, 0.01),
        PartAttention("background", 0.5, 0.9),
        PartAttention("ears", 0.4, 0.03),
    ]
    row = attention_row(50, 1 / 3, found)
    assert row == pytest.approx(
        {
            "step": 50,
            "epoch": 0.3333,
            "mass/ears": 0.3,
            "area/ears": 0.02,
            "objects/ears": 2,
            "mass/background": 0.5,
            "area/background": 0.9,
            "objects/background": 1,
        }
    )


def _trace_of_size(side: int) -> Trace:
    from dataclasses import replace

    trace = detector_of("sprint-dense-n").trace(torch.zeros(3, side, side, dtype=torch.uint8))
    geometry = Geometry.of_resize(side, side, (side, side))
    return replace(trace, geometry=geometry, levels=(Level(4, 4),))
