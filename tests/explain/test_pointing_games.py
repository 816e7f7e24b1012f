"""Pointing games on dogs with badges, a planted shortcut: what finds it, what cannot, and what is left out."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from detrscope.commands.faithfulness import faithfulness
from detrscope.console import log
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.data.drawn_dogs import write_drawn
from detrscope.explain.pointing_games import KNOWN
from detrscope.inference.detector import Detector
from detrscope.inference.load_detector import load

FEW = {"split": "train", "steps": 2, "sanity": 0, "methods": ["middle of the box"], "count": 6}


@pytest.fixture(scope="module")
def badges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("badges") / "set"
    write_drawn(folder, count=6, seed=0, start=10_000_000, size=128, badge="class")
    return folder


@pytest.fixture(scope="module")
def red(badges: Path) -> Detector:
    """The shipped model, its dogs called red dogs: those with a blue badge match no object of its class."""
    detector = load("sprint-dense-n", device="cpu")
    return Detector(detector.engine, replace(detector.card, classes=ClassTable((1,), ("red dog",))))


def test_a_map_that_knows_the_badge_finds_it(
    red: Detector,
    badges: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger=log.name)
    found = faithfulness(red, f"coco:{badges}", region="badge", out=tmp_path / "out", **FEW)  # type: ignore[arg-type]
    by_method = {s.method: s for s in found.pointing}
    assert [*by_method] == ["middle of the box", "random", KNOWN] and found.region == "badge"
    known, random = by_method[KNOWN], by_method["random"]
    assert known.hits == 1 and known.energy > 4 * known.area > 0
    assert random.hits < 0.4 and random.energy < 3 * known.area
    assert known.detections + found.unmatched == found.detections and found.unmatched > 0
    assert f"{found.unmatched} detections that do not match a dog with a visible badge" in caplog.text
    with open(tmp_path / "out" / "pointing.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["method"] for row in rows] == [*by_method] and rows[0]["region"] == "badge"
    assert (tmp_path / "out" / "maps.png").exists() and 1 <= len(found.examples) <= 3
    example = found.examples[0]
    assert [*example.maps] == [*by_method] and all(m.values.min() == 0 for m in example.maps.values())
    tree = json.loads((tmp_path / "out" / "faithfulness.json").read_text())
    assert len(tree["pointing"]) == 3 and tree["unmatched"] == found.unmatched


def test_boxes_are_the_region_of_any_dataset(red: Detector, badges: Path) -> None:
    found = faithfulness(red, f"coco:{badges}", **FEW)  # type: ignore[arg-type]
    by_method = {s.method: s for s in found.pointing}
    assert found.region == "box" and by_method["middle of the box"].hits == by_method[KNOWN].hits == 1
    assert by_method["random"].hits < 0.6


def test_without_matches_there_are_no_games(badges: Path, tmp_path: Path) -> None:
    """The shipped model calls all of them dogs, a class that this dataset does not have."""
    found = faithfulness("sprint-dense-n", f"coco:{badges}", out=tmp_path, **(FEW | {"count": 4}))  # type: ignore[arg-type]
    assert found.pointing == () and found.unmatched == found.detections > 0
    assert not (tmp_path / "pointing.csv").exists() and not (tmp_path / "maps.png").exists()


def test_wrong_regions_and_masks_are_one_line_errors(red: Detector, badges: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    write_drawn(plain, count=6, seed=0, start=10_000_000, size=128)
    for settings, source, message in (
        ({"region": "bagde"}, badges, "region 'bagde' is not known; did you mean 'badge'"),
        ({"masks": 0}, badges, "masks 0: expected 1 or more"),
    ):
        with pytest.raises(UserError, match=message):
            faithfulness(red, f"coco:{source}", **(FEW | settings))  # type: ignore[arg-type]
    dog = Detector(red.engine, replace(red.card, classes=ClassTable((1,), ("dog",))))
    with pytest.raises(
        UserError, match=r"badges/.*png: no badge mask that can be read; draw dogs with badges"
    ):
        faithfulness(dog, f"coco:{plain}", **(FEW | {"region": "badge"}))  # type: ignore[arg-type]
