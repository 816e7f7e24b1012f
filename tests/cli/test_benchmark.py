"""`detrscope benchmark`: tables, JSON and wrong words."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from detrscope.checkpoints.native import save_checkpoint
from detrscope.cli import main
from detrscope.core.preprocessing import Preprocessing
from tests.support.tiny_models import tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    model = tiny("detr-r18")
    save_checkpoint(path, model.model, replace(model.card, preprocessing=Preprocessing(64, 96)))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(
        sys, "argv", ["detrscope", "benchmark", "--rounds", "1", "--device", "cpu", *map(str, arguments)]
    )
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_prints_tables_names_the_machine_and_what_cannot_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = [
        "--model",
        checkpoint,
        "--engine",
        "torch,abacus",
        "--precision",
        "fp32",
        "--size",
        "64x96",
        "--quiet",
    ]
    assert run(monkeypatch, *asked, "--out", out) == 0
    text = capsys.readouterr().out
    assert (
        "torch fp32" in text
        and "64x96" in text
        and "torch's kernels" in text
        and "1.000 (1.000-1.000)" in text
    )
    assert "abacus fp32, 64x96, batch 1: load: engine 'abacus' is not known" in text
    (row,) = [r for r in json.loads((out / "benchmark.json").read_text())["rows"] if r["engine"] == "torch"]
    assert row["peak_mib"] > row["start_mib"] > 0


def test_json_writes_nothing_and_files_have_stages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    asked = ["--model", checkpoint, "--no-memory", "--images", "a.png"]
    assert run(monkeypatch, *asked, "--json", "--quiet") == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["images"] == 1 and tree["rows"][0]["decode_s"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert run(monkeypatch, *asked, "--quiet") == 0
    assert "postprocess" in capsys.readouterr().out and (tmp_path / "benchmark/benchmark.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--size", "12x"], 2, "--size '12x': expected height x width"),
        (["--batch", "1,two"], 2, "--batch 'two': expected whole numbers"),
        (["--queries", "-3"], 2, "--queries '-3': expected whole numbers"),
        (["--against", "yolo"], 2, "against 'yolo': expected transformers or fasterrcnn"),
        (["--model", "detr-r5O"], 2, "did you mean 'detr-r50'?"),
        (["--engine", "abacus"], 1, "no configuration can run"),
    ],
)
def test_wrong_words_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments, "--log-level", "error") == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error and not (tmp_path / "benchmark").exists()
