"""`--tile` of detect, evaluate and see."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detrscope.cli import main
from detrscope.inference import load_detector as detector_module
from detrscope.inference.detector import Detector
from tests.support.many_squares import SQUARES, squares_detector, write_squares
from tests.support.videos import write_clip


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit code of the real entry point; the model is the one that sees every square."""

    def load(name: str, **_: object) -> Detector:
        assert name == "squares"
        return squares_detector()

    monkeypatch.setattr(detector_module, "load", load)
    monkeypatch.setattr(sys, "argv", ["detrscope", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_squares(tmp_path / "data")


def test_detect_finds_each_object_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    words = ["--model", "squares", "--tile", "100", "--tile-overlap", 0.3, "--json", "--quiet"]
    assert run(monkeypatch, "detect", data / "images/0.png", *words) == 0
    (image,) = json.loads(capsys.readouterr().out)
    found = sorted([round(v) for v in row["box_xyxy"]] for row in image["detections"])
    assert found == sorted([*box] for _, box in SQUARES)
    sizes = {(x1 - x0, y1 - y0) for x0, y0, x1, y1 in (row["tile_xyxy"] for row in image["detections"])}
    assert sizes <= {(100, 100), (300, 200)} and (100, 100) in sizes


def test_frames_of_videos_are_tiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4")
    out = tmp_path / "out"
    words = ["--model", "squares", "--tile", "32", "--no-tile-whole", "--out", out, "--quiet"]
    assert run(monkeypatch, "detect", tmp_path / "clip.mp4", *words) == 0
    frames = json.loads((out / "detections.json").read_text())
    tiles = [row["tile_xyxy"] for frame in frames for row in frame["detections"]]
    assert tiles and all(max(x1 - x0, y1 - y0) <= 32 for x0, y0, x1, y1 in tiles)


def test_evaluate_scores_merged_boxes(monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path) -> None:
    words = ["--model", "squares", "--data", data, "--quiet", "--json", tmp_path / "ap.json"]
    assert run(monkeypatch, "evaluate", *words, "--tile", "100x90", "--tile-batch", 3) == 0
    assert json.loads((tmp_path / "ap.json").read_text())["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        (
            "detect",
            ["--tile", "8e2"],
            "tile '8e2': expected a size in pixels, 800 or 800x600 (width x height)",
        ),
        ("detect", ["--tile", "5"], "tile 5x5: expected sides of 16 to 65536 pixels"),
        ("detect", ["--tile", "100", "--tile", "auto"], "--tile auto: is one size"),
        ("detect", ["--tile-overlap", "0.3"], "options of tiles have no effect without --tile"),
        (
            "detect",
            ["--tile", "100", "--tile-overlap", "1.5"],
            "tile overlap 1.5: expected a share of 0 to 0.9",
        ),
        ("detect", ["--tile", "auto"], "tile size: this model does not resize images"),
        ("detect", ["--tile", "16", "--tile-overlap", "0.9"], "choose larger tiles, or less overlap"),
        ("see", ["--tile", "100", "--view", "mean"], "--view does not go with --tile"),
        ("see", ["--tile", "100", "--query", "0"], "--query does not go with --tile"),
    ],
)
def test_wrong_words_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: str,
    words: list[str],
    message: str,
) -> None:
    Image.new("RGB", (700, 600)).save(tmp_path / "a.png")
    out: list[Any] = ["--out", tmp_path / "out", "--model", "squares"]
    assert run(monkeypatch, command, tmp_path / "a.png", *out, *words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1] and lines[-1].startswith("detrscope: ")


def test_evaluate_refuses_tiles_of_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    assert run(monkeypatch, "evaluate", "--results-in", "r.json", "--data", data, "--tile", "auto") == 2
    assert "--tile divides images for a model" in capsys.readouterr().err
