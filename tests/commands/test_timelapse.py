"""Films of a training that was watched: every view, what is refused, and nothing left half-written."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import detrscope as ds
from detrscope.cli.app import app
from detrscope.commands import timelapse as module
from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.core.snapshot import Recording
from detrscope.core.types import Target
from detrscope.recording.recorder import load_recording
from detrscope.views.timelapse import FILMS, FilmOptions, FilmSpec, final
from detrscope.views.timelapse.curves import LOSS, RATES, Curves
from detrscope.views.timelapse.film_spec import found_queries, grid_of, merged_row
from tests.support.recorded_run import watched_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return watched_run(tmp_path_factory.mktemp("filmed"), "run")


@pytest.fixture(scope="module")
def watched(run: Path) -> Recording:
    return load_recording(run)


@pytest.fixture(scope="module")
def deformable(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    folder = tmp_path_factory.mktemp("deformable")
    settings = {"model__variant": "sprint-deformable-n", "train__epochs": 1, "train__recording__features": 0}
    return load_recording(watched_run(folder, "run", **settings))


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_the_film_of_a_run_has_every_moment_and_then_holds(run: Path, tmp_path: Path) -> None:
    paths = ds.timelapse(run, tmp_path, fps=2, gif=True)
    assert [p.name for p in paths] == ["final.mp4", "final.gif", "parts.png"]
    frames = frames_of(paths[0])
    assert len(frames) == 3 + 3 and frames[0].shape == (810, 1440, 3)
    moved = [np.abs(a.astype(int) - b).mean() for a, b in pairwise(frames)]
    assert min(moved[:2]) > 0.3 and max(moved[2:]) < 0.1, "moments differ, then the last one stays"
    with Image.open(paths[1]) as gif:
        assert gif.size[0] == 800 and getattr(gif, "n_frames", 1) >= 3 and gif.info["loop"] == 0
    with Image.open(paths[2]) as parts:
        assert parts.size[0] == 1100


def test_every_view_draws_frames_of_one_size_in_files_of_their_own(watched: Recording) -> None:
    names: list[str] = []
    for view, films in FILMS.items():
        for reel in films(watched, FilmOptions.of(watched)):
            first, last = (reel.draw(i).pixels() for i in (0, reel.frames - 1))
            assert first.shape == last.shape and reel.frames == 3, view
            assert first.std() > 5 and (first != last).any(), f"{reel.name} shows nothing, or nothing moves"
            names.append(reel.name)
    pictures = list(watched.images)
    assert len(set(names)) == len(names) == 1 + 5 * len(pictures)
    assert {"final", *(f"{p}-{v}" for p in pictures for v in ("boxes", "merged", "plain", "queries"))} <= set(
        names
    )


def only(watched: Recording, view: str, **choice: object) -> FilmSpec:
    name = next(iter(watched.images))
    reels = list(FILMS[view](watched, FilmOptions.of(watched, image=name, **choice)))
    assert len(reels) == 1
    return reels[0]


def test_one_query_is_shown_through_all_layers_and_one_convolution_by_its_channels(
    watched: Recording, deformable: Recording
) -> None:
    query = int(watched.moments[-1].looks[next(iter(watched.images))].query_ids[4])
    reel = only(watched, "queries", query=query)
    assert reel.name.endswith(f"-query-{query}") and reel.draw(1).pixels().std() > 5
    reel = only(watched, "features", site="backbone.layer2.0.conv1")
    assert reel.name.endswith("-features-layer2.0.conv1") and reel.draw(1).pixels().std() > 5
    points = only(deformable, "queries", query=0)
    assert points.draw(1).pixels().std() > 5 and only(deformable, "plain").draw(0).pixels().std() > 5


def test_a_query_must_be_kept_in_every_picture_that_is_filmed(watched: Recording) -> None:
    first, second = watched.images
    last = watched.moments[-1]
    kept = last.looks[second].query_ids
    looks = {**last.looks, second: replace(last.looks[second], query_ids=kept + 100)}
    other = replace(watched, moments=[*watched.moments[:-1], replace(last, looks=looks)])
    query = int(last.looks[first].query_ids[0])
    assert FilmOptions.of(other, image=first, query=query).query == query
    with pytest.raises(
        UserError, match=f"query {query} is not among those kept in the last look at '{second}'"
    ):
        FilmOptions.of(other, query=query)


def test_the_final_film_says_which_pictures_it_leaves_out(
    watched: Recording, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level("INFO", log.name)
    choice = FilmOptions.of(watched)
    (whole,) = FILMS["final"](watched, choice)
    assert "pictures" not in whole.draw(0).caption
    monkeypatch.setattr(final, "MOST", 1)
    (cut,) = FILMS["final"](watched, choice)
    assert "the first 1 of 2 pictures" in cut.draw(0).caption and "the first 1 of 2 pictures" in caplog.text


def test_what_boxes_adds_to_merged_is_boxes(watched: Recording) -> None:
    with_boxes, without = (only(watched, view, threshold=0.0) for view in ("boxes", "merged"))
    one, other = with_boxes.draw(2).pixels(), without.draw(2).pixels()
    height = min(len(one), len(other))
    changed = (one[:height] != other[:height]).any(-1)
    assert 0.005 < changed[60:].mean() < 0.5


def test_merging_is_over_what_was_found_else_the_best_or_over_all_queries(watched: Recording) -> None:
    name, trace = next(iter(watched.images.items()))
    look = watched.looks(name)[-1]
    best = look.scores("sigmoid").amax(1)
    for threshold in (0.0, float(best.median()), 1.0):
        choice = FilmOptions.of(watched, threshold=threshold)
        kept = [i for i in range(10) if best[i] >= threshold] or [int(best.argmax())]
        assert sorted(found_queries(look, trace, choice) or kept) == kept
        wanted = look.rows().numpy()[kept].mean(0)
        np.testing.assert_allclose(merged_row(look, trace, choice).numpy(), wanted, atol=1e-6)
    everyone = merged_row(look, trace, FilmOptions.of(watched, over="all"))
    torch.testing.assert_close(everyone, look.rows().mean(0), rtol=0, atol=1e-3)


def test_curves_are_those_of_the_metrics_in_epochs(watched: Recording) -> None:
    rows = [
        {"step": 2, "val/AP": None, "train/loss_class": 3.0},
        {"step": 4, "val/AP": 0.5, "train/loss_class": 1.0},
    ]
    rows = [
        {**row, "lr/base": 1e-3, "lr/base.1d": 1e-3, "lr/backbone": 1e-3, "lr/muon": 4e-3} for row in rows
    ]
    curves = Curves.of(replace(watched, metrics=rows))
    assert list(curves.charts["AP, %"][0].x) == [2.0] and list(curves.charts["AP, %"][0].y) == [50.0]
    assert list(curves.charts[LOSS][0].x) == [1.0, 2.0] and list(curves.charts[LOSS][0].y) == [3.0, 1.0]
    assert [line.label for line in curves.charts[RATES]] == ["base, backbone", "muon"]
    assert "attention on its object, %" in curves.charts
    bare = Curves.of(replace(watched, metrics=[], attention=[]))
    assert len(bare.charts) == 3 and not any(line.x for lines in bare.charts.values() for line in lines)


def test_a_run_without_truth_or_metrics_is_filmed_too(watched: Recording) -> None:
    bare = replace(
        watched,
        images={name: replace(trace, targets=None) for name, trace in watched.images.items()},
        metrics=[],
        attention=[],
    )
    (reel,) = FILMS["final"](bare, FilmOptions.of(bare))
    assert reel.draw(0).pixels().shape == (810, 1440, 3)
    nothing = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    unknown = replace(
        watched, images={name: replace(trace, targets=nothing) for name, trace in watched.images.items()}
    )
    for view in ("final", "boxes", "queries"):
        for run, says in ((watched, True), (bare, False), (unknown, False)):
            picture = next(iter(FILMS[view](run, FilmOptions.of(run)))).draw(0)
            assert ("dashed: truth" in picture.caption) == says, view


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 9])
@pytest.mark.parametrize("aspect", [0.5, 1.0, 1.7])
def test_pictures_neither_overlap_nor_leave_their_area(count: int, aspect: float) -> None:
    places = grid_of(count, aspect, 700, 500, 8, above=20)
    assert len(places) == count
    for x, y, w, h in places:
        assert (
            x >= 0
            and y >= 20
            and x + w <= 700 + 1e-6
            and y + h <= 500 + 1e-6
            and h == pytest.approx(w * aspect)
        )
    for i, (x, y, w, h) in enumerate(places):
        for u, v, a, b in places[i + 1 :]:
            assert x + w <= u or u + a <= x or y + h <= v or v + b <= y


def test_interrupted_it_leaves_no_half_written_film(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    def reels(watched: Recording, choice: FilmOptions) -> list[FilmSpec]:
        (real,) = FILMS["final"](watched, choice)

        def draw(index: int) -> object:
            drawn.append(index)
            if len(drawn) == 5:
                raise KeyboardInterrupt
            return real.draw(index)

        return [replace(real, name=name, draw=draw) for name in ("first", "second")]

    monkeypatch.setitem(module.FILMS, "merged", reels)
    with pytest.raises(KeyboardInterrupt):
        ds.timelapse(run, tmp_path, view="merged", gif=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["first.gif", "first.mp4"], "finished films stay"
    assert len(frames_of(tmp_path / "first.mp4")) > 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--view", "boxs"], "view 'boxs' is not known; did you mean 'boxes'"),
        (["--image", "nobody"], "image 'nobody' was not watched"),
        (["--query", "1"], "--query is for the view 'queries': add --view queries"),
        (["--site", "x"], "--site is for the view 'features': add --view features"),
        (["--view", "queries", "--query", "77"], "query 77 is not among those kept"),
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


def test_runs_without_looks_or_features_say_what_to_train_with(tmp_path: Path, deformable: Recording) -> None:
    with pytest.raises(UserError, match="holds no looks; train with --probe-images DIR"):
        ds.timelapse(tmp_path)
    with pytest.raises(UserError, match=r"no features were kept; train with --train\.recording\.features=4"):
        list(FILMS["features"](deformable, FilmOptions.of(deformable)))


def test_the_command_prints_what_it_wrote(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(iter(load_recording(run).images))
    out = tmp_path / "films"
    arguments = ["timelapse", str(run), "--out", str(out), "--view", "plain", "--image", name, "--quiet"]
    result = CliRunner().invoke(app, arguments)
    monkeypatch.setattr(log, "propagate", True)
    assert result.exit_code == 0, result.output
    assert (out / f"{name}-plain.mp4").is_file() and f"{name}-plain.mp4" in result.stdout
