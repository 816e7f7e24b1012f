"""`detrscope evaluate` and its Python twin, down to the files."""

import json
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from detrscope import families
from detrscope.checkpoints.native import read_checkpoint_card, replace_checkpoint_card, save_checkpoint
from detrscope.cli import main
from detrscope.commands.evaluate import evaluate, evaluate_results
from detrscope.config import config_to_tree
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.model_card import ModelCard
from detrscope.core.operating_points import ThresholdCurve, ThresholdTable
from detrscope.core.preprocessing import Preprocessing
from detrscope.data.open_dataset import open_dataset
from tests.support.square_detector import IDS, NAMES, WORLD, SquareDetector, card, write_world

SMALL: dict[str, Any] = {
    "width": 16,
    "queries": 5,
    "encoder": {"layers": 1, "heads": 2, "feedforward": 16},
    "decoder": {"layers": 1, "heads": 2, "feedforward": 16},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DETR that has learned nothing."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    config = config_to_tree(families.resolve_variant("detr-r18", SMALL))
    model = families.build("detr-r18", SMALL, len(IDS))
    save_checkpoint(
        path,
        model,
        ModelCard("detr", "detr-r18", config, ClassTable(IDS, NAMES), Preprocessing(64, 96), "softmax"),
    )
    return path


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return write_world(tmp_path / "world")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of the real entry point."""
    monkeypatch.setattr(sys, "argv", ["detrscope", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_evaluates_a_checkpoint_and_writes_everything(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    world: Path,
    tmp_path: Path,
) -> None:
    out, numbers, results = tmp_path / "out", tmp_path / "n.json", tmp_path / "r.json"
    arguments = ["evaluate", "--model", checkpoint, "--data", world, "--batch-size", 2, "--device", "cpu"]
    assert run(monkeypatch, *arguments, "--json", numbers, "--results", results, "--out", out) == 0
    table = capsys.readouterr().out
    assert "5 images, 5 boxes" in table
    assert all(name in table for name in NAMES)
    tree = json.loads(numbers.read_text())
    assert [row["id"] for row in tree["per_class"]] == list(IDS)
    assert tree["AP"] is not None and tree["AP_large"] is None
    rows = json.loads(results.read_text())
    assert len(rows) == len(WORLD) * SMALL["queries"]
    assert {row["category_id"] for row in rows} <= set(IDS)
    assert sorted(path.name for path in out.iterdir()) == [
        "evaluation.json",
        "per_class.csv",
        "precision_recall.csv",
        "precision_recall.png",
        "results.json",
        "thresholds.csv",
    ]
    assert json.loads((out / "evaluation.json").read_text()) == tree
    assert json.loads((out / "results.json").read_text()) == rows
    lines = (out / "per_class.csv").read_text().splitlines()
    assert lines[0].startswith(
        "id,name,boxes,AP,AP50,AP75,AP_small,AP_medium,AP_large,f1 threshold,f1 precision"
    )
    assert [line.split(",")[:3] for line in lines[1:]] == [
        ["1", "ruby", "1"],
        ["7", "leaf", "2"],
        ["900", "sky", "2"],
    ]
    curve = (out / "precision_recall.csv").read_text().splitlines()
    assert len(curve) == 102 and curve[0].startswith(
        "recall,ruby AP50,ruby AP75,ruby score at AP50,ruby score at AP75,leaf AP50"
    )

    again = tmp_path / "again.json"  # the file of results scores the same as the model
    assert run(monkeypatch, "evaluate", "--results-in", results, "--data", world, "--json", again) == 0
    assert json.loads(again.read_text()) == tree


def test_quiet_prints_only_metrics(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], world: Path, tmp_path: Path
) -> None:
    (tmp_path / "none.json").write_text("[]")
    assert (
        run(monkeypatch, "evaluate", "--results-in", tmp_path / "none.json", "--data", world, "--quiet") == 0
    )
    captured = capsys.readouterr()
    assert "AP50" in captured.out and "per class" in captured.out
    assert captured.err == ""


def test_thresholds_are_printed_and_in_the_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], world: Path, tmp_path: Path
) -> None:
    annotations = json.loads((world / "annotations.json").read_text())["annotations"]
    rows = [
        {**{k: a[k] for k in ("image_id", "category_id", "bbox")}, "score": score}
        for a, score in zip(annotations, (0.9, 0.8, 0.7, 0.4, 0.2), strict=True)
    ]
    wrong = {**rows[0], "bbox": [0, 0, 3, 3], "score": 0.3}
    results, numbers = tmp_path / "r.json", tmp_path / "n.json"
    results.write_text(json.dumps([*rows[:4], wrong]))
    arguments = ["--results-in", results, "--data", world, "--json", numbers]
    assert run(monkeypatch, "evaluate", *arguments) == 0
    lines = [[cell.strip() for cell in line.split("│")] for line in capsys.readouterr().out.splitlines()]
    assert any(line[1:2] == ["best F1"] and line[3:6] == ["1.000", "0.800", "0.889"] for line in lines)
    assert ["", "recall 0.9", "none", "-", "at most 0.800", "-", ""] in lines
    assert not any("ruby" in line and "best F1" in line for line in lines)
    tree = json.loads(numbers.read_text())
    assert tree["operating_points"]["recall=0.9"]["highest"] == 0.8
    assert 0.3 < tree["operating_points"]["f1"]["threshold"] <= 0.4
    assert run(monkeypatch, "evaluate", *arguments, "--per-class-thresholds") == 0
    lines = [[cell.strip() for cell in line.split("│")] for line in capsys.readouterr().out.splitlines()]
    assert any(line[1:3] == ["ruby", "best F1"] for line in lines)


def test_stored_thresholds_answer_detect(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    world: Path,
    tmp_path: Path,
) -> None:
    path = tmp_path / "run" / "best.safetensors"
    path.parent.mkdir()
    shutil.copy(checkpoint, path)
    picture = world / "images" / "0.png"
    asked = ["detect", picture, "--model", path.parent, "--device", "cpu", "--json", "--quiet"]
    assert run(monkeypatch, *asked, "--threshold", "f1") == 2
    assert "evaluate it on a validation set with --store-thresholds" in capsys.readouterr().err

    arguments = ["evaluate", "--model", path.parent, "--data", world, "--device", "cpu"]
    results = tmp_path / "r.json"
    assert run(monkeypatch, *arguments, "--results", results, "--store-thresholds") == 0
    before, after = read_checkpoint_card(checkpoint), read_checkpoint_card(path)
    assert before is not None and after is not None and before.thresholds is None
    table = after.thresholds
    assert table is not None and replace(after, thresholds=None) == before
    assert (table.images, table.all_classes.boxes) == (5, 5) and set(table.per_class) == set(IDS)
    old, new = load_file(checkpoint), load_file(path)
    assert old.keys() == new.keys()
    assert all(old[key].numpy().tobytes() == new[key].numpy().tobytes() for key in old)

    # A table that a model of these scores could have; the card alone decides.
    scores = sorted({row["score"] for row in json.loads(results.read_text())})
    middle = scores[len(scores) // 2]
    made_up = ThresholdTable("made up", 5, ThresholdCurve(5, (middle,), (5,), (0,)), {})
    replace_checkpoint_card(path, replace(before, thresholds=made_up))
    capsys.readouterr()
    assert run(monkeypatch, *[a for a in asked if a != "--quiet"], "--threshold", "precision=0.9") == 0
    captured = capsys.readouterr()
    assert f"precision=0.9: threshold {middle:.4g}, precision 1.000" in " ".join(captured.err.split())
    by_name = json.loads(captured.out)
    assert run(monkeypatch, *asked, "--threshold", repr(middle)) == 0
    assert json.loads(capsys.readouterr().out) == by_name


@pytest.mark.parametrize("model", ["sprint-dense-n", "SQUARES", "FOREIGN"])
def test_only_our_checkpoints_store_thresholds(model: str, world: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, foreign)
    given = {"SQUARES": SquareDetector(), "FOREIGN": foreign}.get(model, model)
    with pytest.raises(UserError, match="store_thresholds: expected a checkpoint of detrscope"):
        evaluate(given, world, store_thresholds=True)


def test_no_results_score_zero_and_undefined_shows_as_a_dash(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], world: Path, tmp_path: Path
) -> None:
    (tmp_path / "none.json").write_text("[]")
    assert run(monkeypatch, "evaluate", "--results-in", tmp_path / "none.json", "--data", world) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "AP .50:.95" in line]
    assert [cell.strip() for cell in row.split("│")[2:6]] == ["0.0", "0.0", "0.0", "-"]


def test_classes_without_boxes_are_left_out_of_the_table_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    world = write_world(tmp_path / "world", ids=(*IDS, 901), names=(*NAMES, "emu"))
    (tmp_path / "none.json").write_text("[]")
    numbers = tmp_path / "n.json"
    arguments = ["--results-in", tmp_path / "none.json", "--data", world, "--json", numbers]
    assert run(monkeypatch, "evaluate", *arguments) == 0
    table = capsys.readouterr().out
    assert "emu" not in table and "1 classes without boxes are left out" in table
    assert json.loads(numbers.read_text())["per_class"][-1]["name"] == "emu"


def test_perfect_model_from_python(world: Path) -> None:
    found = evaluate(SquareDetector(), world, batch_size=2)
    assert pytest.approx(1, rel=1e-12) == found.AP50
    assert [(row.id, row.name) for row in found.per_class] == list(zip(IDS, NAMES, strict=True))


def test_other_ids_of_the_same_names_are_translated(tmp_path: Path) -> None:
    other = write_world(tmp_path / "other", ids=(7, 1, 3))  # 1 and 7 are swapped against the model's
    found = evaluate(SquareDetector(), other, results_file=tmp_path / "r.json")
    assert pytest.approx(1, rel=1e-12) == found.AP50
    assert {row["category_id"] for row in json.loads((tmp_path / "r.json").read_text())} == {1, 3, 7}


def test_dataset_classes_missing_from_the_model_are_refused(tmp_path: Path) -> None:
    other = write_world(tmp_path / "other", names=("ruby", "leaf", "emu"))
    with pytest.raises(UserError, match="has no class for 1 of the dataset's classes \\('emu'\\)"):
        evaluate(SquareDetector(), other)


def test_an_empty_dataset_is_undefined(world: Path) -> None:
    found = evaluate(SquareDetector(), open_dataset(str(world), "val").subset([]))
    assert found.AP is None and found.images == 0


def test_more_objects_than_queries_warns(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = world / "annotations.json"
    tree = json.loads(path.read_text())
    tree["annotations"] += [{**tree["annotations"][0], "id": 100 + i} for i in range(4)]
    path.write_text(json.dumps(tree))
    with caplog.at_level(logging.WARNING, logger="detrscope"):
        evaluate(SquareDetector(), world)
    assert (
        "1 images have more objects than the 2 that the model predicts at most, such as image 50"
        in caplog.text
    )


def test_results_can_be_given_as_data(world: Path) -> None:
    (x, y, w, h), index = WORLD[0][1:]
    result = {"image_id": 50, "category_id": IDS[index], "bbox": [x, y, w, h], "score": 1.0}
    found = evaluate_results([result], world)
    assert [row.AP for row in found.per_class] == pytest.approx([1, 0, 0], rel=1e-12)
    assert card().classes.ids == IDS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "WORLD"], "give either --model or --results-in"),
        (["--data", "WORLD", "--model", "detr-r5O"], "did you mean 'detr-r50'?"),
        (["--data", "WORLD", "--model", "none.safetensors"], "none.safetensors"),
        (["--data", "WORLD", "--model", "WORLD/images/0.png"], "0.png"),
        (["--data", "nowhere", "--model", "MODEL"], "nowhere"),
        (["--data", "WORLD", "--results-in", "none.json"], "none.json: cannot be read"),
        (["--data", "WORLD", "--results-in", "r.json", "--results", "s.json"], "--results"),
        (["--data", "WORLD", "--results-in", "r.json", "--store-thresholds"], "--store-thresholds writes to"),
        (
            ["--data", "WORLD", "--model", "sprint-dense-n", "--store-thresholds"],
            "store_thresholds: expected",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    world: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    filled = [a.replace("WORLD", str(world)).replace("MODEL", str(checkpoint)) for a in arguments]
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "evaluate", *filled, "--out", "out", "--log-level", "error") == 2
    error = capsys.readouterr().err
    assert error.startswith("detrscope: ") and error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()
