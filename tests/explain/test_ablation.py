"""Every part of a model muted in turn: all of them are there, and the effects are those of the edits."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import detrscope as ds
from detrscope.cli.app import app
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.explain.ablation import Unit, ablate_images, units_of
from detrscope.inference.detector import Detector
from detrscope.lens.changes import detection_changes
from tests.support.datasets import MakeDataset
from tests.support.tiny_models import distinct
from tests.support.traces import detector_of, picture


@pytest.mark.parametrize("variant", distinct())
def test_every_part_of_every_variant_can_be_muted(variant: str) -> None:
    detector = detector_of(variant)
    trace = detector.trace(picture())
    units = units_of(trace, groups=3)
    heads = [(u.site, u.name) for u in units if u.kind == "head"]
    assert heads == [(s, f"head {h}") for s, r in trace.records.items() for h in range(r.shape[0])]
    assert [u.site for u in units if u.kind == "layer"] == list(trace.sites)
    of_tokens = [s for s in trace.sites if not (s.startswith("decoder") and s.endswith("self"))]
    counts = [len(trace.levels_at(site)) for site in of_tokens]
    assert sum(u.kind == "level" for u in units) == sum(count for count in counts if count > 1)
    groups = [u.name for u in units if u.kind == "queries"]
    assert len(groups) == 3 and groups[0].startswith("quer") and groups[-1].endswith(str(trace.queries - 1))
    unit: Unit
    for unit in (next(u for u in units if u.kind == kind) for kind in {u.kind for u in units}):
        detector.trace(picture(), sites=[], edits=[unit.edit])


def test_effects_in_images_are_those_of_the_edits() -> None:
    detector, images = detector_of("sprint-dense-n"), [picture(), picture().flip(2)]
    threshold = float(detector.trace(images[0]).scores().max()) * 0.8
    result = ablate_images(detector, images, threshold, groups=2)
    assert result.images == 2 and result.detections and result.ap is None
    assert len({effect.score for effect in result.effects}) > 5
    effect = max(result.effects, key=lambda effect: effect.loss)
    assert result.strongest()[0] == effect
    changes = [
        change
        for image in images
        for change in detection_changes(
            detector.trace(image), detector.trace(image, edits=[effect.unit.edit]), threshold
        )
    ]
    old = [change.score_change for change in changes if change.before]
    assert len(old) == result.detections and effect.score == pytest.approx(sum(old) / len(old))
    assert effect.vanished == sum(change.after is None for change in changes)
    assert effect.appeared == sum(change.before is None for change in changes)


def test_ap_of_a_dataset_is_that_of_the_edited_model(make_dataset: MakeDataset, tmp_path: Path) -> None:
    tiny = detector_of("sprint-dense-n")
    classes = ClassTable((1, 7, 900), ("class-1", "class-7", "class-900"))
    detector = Detector(tiny.engine, replace(tiny.card, classes=classes))
    data = make_dataset()
    result = ds.ablate(model=detector, data=str(data), split="train", count=4, groups=0, out=tmp_path)
    assert result.images == 4 and result.ap is not None and result.detections is None
    assert {effect.unit.kind for effect in result.effects} == {"layer", "head"}
    dataset = ds.evaluate(detector, str(data), split="train")
    assert dataset.images == 6
    rows = list(csv.DictReader((tmp_path / "ablation.csv").read_text().splitlines()))
    assert [row["edit"] for row in rows] == [effect.unit.edit for effect in result.effects]
    assert json.loads((tmp_path / "ablation.json").read_text())["ap"] == result.ap
    with Image.open(tmp_path / "ablation.png") as image:
        assert image.width > 300


def test_command_prints_the_strongest_first(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(picture().permute(1, 2, 0).numpy()).save(path)
    arguments = [
        "ablate",
        str(path),
        "--threshold",
        "0.001",
        "--out",
        str(tmp_path / "out"),
        "--groups",
        "2",
        "-q",
    ]
    ran = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert ran.exit_code == 0
    effects = json.loads(ran.stdout)["effects"]
    assert {effect["kind"] for effect in effects} == {"layer", "head", "queries"}
    table = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    strongest = min(effects, key=lambda effect: effect["score"])
    assert table.index(strongest["name"]) < table.index("more, which lose less")
    assert (tmp_path / "out" / "ablation.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected images, or a dataset"),
        ({"sources": picture(), "data": "drawn-dogs:"}, "give one of them"),
        ({"sources": picture(), "groups": -1}, "groups: expected 0 or more"),
        ({"sources": picture(), "threshold": 1.0}, "there is no detection to follow"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ds.ablate(model=detector_of("sprint-dense-n"), **arguments)
