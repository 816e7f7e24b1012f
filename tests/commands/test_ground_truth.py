"""What a dataset knows of a picture that is looked at: boxes, and what lies under each pixel."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import detrscope as ds
from detrscope.commands.ground_truth import GroundTruthIndex
from detrscope.commands.see import SeeResult
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.types import Regions
from detrscope.data.drawn_dogs import write_drawn
from detrscope.data.part_masks import read_part_mask
from detrscope.lens.measure import measure
from detrscope.synthetic.parts import NAMES
from detrscope.trace_interface import Trace
from detrscope.views.options import ViewOptions
from tests.support.equality import same
from tests.support.tiny_models import CLASSES

QUERY = ViewOptions(queries=(1,))


@pytest.fixture(scope="module")
def dogs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth") / "dogs"
    write_drawn(folder, count=3, seed=1, size=96)
    return folder


def seen_with_truth(picture: Path, truth: str | Path) -> SeeResult:
    (seen,) = ds.see(str(picture), views=("detections", "metrics"), options=QUERY, ground_truth=truth)
    return seen


def test_boxes_and_parts_of_a_drawing_are_measured(dogs: Path, tmp_path: Path) -> None:
    tree = json.loads((dogs / "annotations.json").read_text())
    picture = dogs / "images/000000.png"
    (image,) = (row for row in tree["images"] if row["file_name"].endswith("000000.png"))
    boxes = [row["bbox"] for row in tree["annotations"] if row["image_id"] == image["id"]]
    seen = seen_with_truth(picture, dogs / "annotations.json")
    trace = seen.trace
    assert trace is not None
    expected = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes]).float()
    torch.testing.assert_close(trace.targets_xyxy, expected, atol=1e-3, rtol=0)
    assert f"the {len(boxes)} boxes of the ground truth" in seen.figures["detections"].caption

    parts, _, _ = read_part_mask(picture)
    assert trace.regions is not None
    masks = trace.regions.masks()
    assert set(masks) == {NAMES[n] for n in np.unique(parts) if n} | {"background"}
    for number, name in NAMES.items():
        if name in masks:
            assert (masks[name].numpy() == (parts == number)).all(), name
    last = [m for m in seen.measurements if m.kind == "decoder.cross" and m.head is None][-1]
    (given,) = [
        m
        for m in measure(trace, [1], masks={"ears": torch.from_numpy(parts == 3)})
        if (m.kind, m.layer, m.head, m.query) == (last.kind, last.layer, None, None)
    ]
    assert last.parts.get("ears", 0.0) == pytest.approx(given.parts["ears"])
    assert sum(last.parts.values()) == pytest.approx(last.mass, abs=1e-4)
    assert sum(last.part_areas.values()) == pytest.approx(1, abs=1e-4)
    about = seen.figures["metrics"].caption
    assert "On parts, in the last decoder layer: " in about and "background" in about
    loaded = Trace.load(trace.save(tmp_path / "a.trace"))
    assert same(loaded, trace)


def test_masks_of_a_dataset_have_smaller_objects_on_top(tmp_path: Path) -> None:
    def square(number: int, category: int, side: int) -> dict[str, object]:
        corners = [[4, 4, 4 + side, 4, 4 + side, 4 + side, 4, 4 + side]]
        return {
            **{"id": number, "image_id": 1, "category_id": category, "iscrowd": 0},
            **{"bbox": [4, 4, side, side], "area": side * side, "segmentation": corners},
        }

    for folder in ("annotations", "val"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "val/a.png")
    categories = [{"id": i, "name": name} for i, name in zip(CLASSES.ids, CLASSES.names, strict=True)]
    tree = {
        "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
        "annotations": [square(1, 1, 24), square(2, 7, 8)],
        "categories": [*categories, {"id": 5, "name": "tree"}],
    }
    (tmp_path / "annotations/instances_val.json").write_text(json.dumps(tree))
    trace = ds.load("sprint-dense-n").trace(tmp_path / "val/a.png")
    card = replace(trace.card, classes=ClassTable(CLASSES.ids, CLASSES.names))
    known = GroundTruthIndex(f"coco:{tmp_path}", "val").add_to(replace(trace, card=card))
    assert known.targets is not None and known.targets.labels.tolist() == [0, 1]
    assert known.regions is not None and known.regions.names == ("background", "cell", "dog")
    masks = known.regions.masks()
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        "background": 60 * 40 - 24 * 24,
        "cell": 24 * 24 - 8 * 8,
        "dog": 8 * 8,
    }


def test_images_without_ground_truth_are_named(dogs: Path, tmp_path: Path) -> None:
    known = dogs / "annotations.json"
    other = tmp_path / "other.png"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(other)
    alike = tmp_path / "000000.png"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(alike)
    for picture, truth, message in (
        (other, known, r"other.png: \S+annotations.json has no such image; check the split"),
        (alike, known, r"000000.png: has 60 x 40 pixels, but 96 x 96 in "),
        (other, tmp_path / "none", r"none: no such folder"),
    ):
        with pytest.raises(UserError, match=message):
            seen_with_truth(picture, truth)
    with pytest.raises(
        UserError, match=r"split test: is a split of the ground truth, but no ground truth was given"
    ):
        ds.see(str(alike), views=("detections",), options=QUERY, split="test")


def test_regions_of_another_size_are_damage(dogs: Path, tmp_path: Path) -> None:
    trace = ds.load("sprint-dense-n").trace(dogs / "images/000001.png")
    for labels in (torch.zeros(9, 9, dtype=torch.uint8), torch.full((96, 96), 3, dtype=torch.uint8)):
        path = replace(trace, regions=Regions(labels, ("background", "dog"))).save(tmp_path / "a.trace")
        with pytest.raises(UserError, match="damaged: regions"):
            Trace.load(path)
