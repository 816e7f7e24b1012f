"""`timelapse`: the written files, wrong input, and no half-written films."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import detrscope as ds
from detrscope.cli.app import app
from detrscope.commands import timelapse as module
from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.core.snapshot import Recording
from detrscope.recording.recorder import load_recording
from detrscope.views.canvas import PixelFigure
from detrscope.views.timelapse import FilmOptions, FilmSpec, films
from tests.support.recorded_run import record_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_run(tmp_path_factory.mktemp("filmed"), "run")


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_film_shows_every_snapshot_and_holds_the_last(run: Path, tmp_path: Path) -> None:
    paths = ds.timelapse(run, tmp_path, fps=2, gif=True)
    assert [p.name for p in paths] == ["final.mp4", "final.gif", "parts.png", "run.html"]
    frames = frames_of(paths[0])
    assert len(frames) == 3 + 3 and frames[0].shape == (810, 1440, 3)
    moved = [np.abs(a.astype(int) - b).mean() for a, b in pairwise(frames)]
    assert min(moved[:2]) > 0.3 and max(moved[2:]) < 0.1, "snapshots differ, then the last one stays"
    with Image.open(paths[1]) as gif:
        assert gif.size[0] == 800 and getattr(gif, "n_frames", 1) >= 3 and gif.info["loop"] == 0
    with Image.open(paths[2]) as parts:
        assert parts.size[0] == 1100


def test_stills_are_the_frames_named_by_their_steps(run: Path, tmp_path: Path) -> None:
    image = sorted(path.stem for path in (run / "snapshots").glob("*.trace"))[0]
    film, stills = ds.timelapse(run, tmp_path, view="boxes", image=image, stills=True, page=False)
    steps = [step.step for step in load_recording(run).steps]
    assert [path.name for path in sorted(stills.iterdir())] == [f"step_{step:07d}.png" for step in steps]
    with Image.open(stills / f"step_{steps[1]:07d}.png") as still:
        difference = np.abs(frames_of(film)[1].astype(int) - np.asarray(still.convert("RGB")))
    assert difference.mean() < 6  # the film is compressed
    assert not (tmp_path / "run.html").exists()


def test_the_film_of_queries_shows_every_recorded_query(run: Path) -> None:
    recording = load_recording(run)
    image = next(iter(recording.images))
    titles: list[str] = []
    (film,) = films("queries", recording, FilmOptions(image=image))
    with pytest.MonkeyPatch.context() as patch:
        original = PixelFigure.text

        def text(self: PixelFigure, words: str, *args: Any, **kwargs: Any) -> None:
            titles.append(words)
            original(self, words, *args, **kwargs)

        patch.setattr(PixelFigure, "text", text)
        film.draw(film.frames - 1)
    stored = recording.steps[-1].snapshots[image].query_ids.tolist()
    shown = [int(words.split()[1].rstrip(",")) for words in titles if words.startswith("query ")]
    assert sorted(shown) == sorted(stored)


def test_an_interrupt_leaves_no_half_written_film(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    def interrupted(view: str, recording: Recording, options: FilmOptions) -> list[FilmSpec]:
        (real,) = films("final", recording, options)

        def draw(index: int) -> object:
            drawn.append(index)
            if len(drawn) == 5:
                raise KeyboardInterrupt
            return real.draw(index)

        return [replace(real, name=name, draw=draw) for name in ("first", "second")]

    monkeypatch.setattr(module, "films", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ds.timelapse(run, tmp_path, view="mean", gif=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["first.gif", "first.mp4"], "finished films stay"
    assert len(frames_of(tmp_path / "first.mp4")) > 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--view", "boxs"], "view 'boxs' is not known; did you mean 'boxes'"),
        (["--image", "nobody"], "image 'nobody' is not a probe image of this run"),
        (["--query", "1"], "query 1: only the view 'queries' uses it"),
        (["--site", "x"], "site x: only the view 'features' uses it"),
        (["--view", "queries", "--query", "77"], "query 77 is not stored in the last snapshot"),
        (["--view", "features", "--site", "backbone.layer2.0.conv9"], "did you mean 'backbone.layer2.0.conv"),
        (["--layer", "3"], "this model has decoder layers 0 to 2"),
        (["--fps", "0"], "fps 0: expected more than 0"),
        (["--threshold", "2"], "threshold 2: expected a score between 0 and 1"),
    ],
)
def test_wrong_input_is_one_clear_line_and_writes_nothing(
    run: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(app, ["timelapse", str(run), "--out", str(tmp_path / "films"), *arguments])
    assert isinstance(result.exception, UserError), result.output
    assert message in str(result.exception) and "\n" not in str(result.exception)
    assert not (tmp_path / "films").exists()


def test_a_run_without_snapshots_says_how_to_train(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="contains no snapshots; train with probe_images=DIR"):
        ds.timelapse(tmp_path)


def test_the_command_prints_the_paths_it_wrote(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = next(iter(load_recording(run).images))
    out = tmp_path / "films"
    arguments = ["timelapse", str(run), "--out", str(out), "--view", "plain", "--image", name, "--quiet"]
    result = CliRunner().invoke(app, arguments)
    monkeypatch.setattr(log, "propagate", True)
    assert result.exit_code == 0, result.output
    assert (out / f"{name}-plain.mp4").is_file() and f"{name}-plain.mp4" in result.stdout
