"""Films: every view, the averaged attention, curves, and runs without features or ground truth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.core.snapshot import Recording
from detrscope.core.types import Target
from detrscope.recording.recorder import load_recording
from detrscope.views.grid import largest_panel_grid
from detrscope.views.timelapse import NAMES, FilmOptions, FilmSpec, films, final
from detrscope.views.timelapse.curves import LOSS, RATES, Curves
from detrscope.views.timelapse.film_spec import ProbeFilm
from tests.support.recorded_run import record_run


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return load_recording(record_run(tmp_path_factory.mktemp("recorded"), "run"))


@pytest.fixture(scope="module")
def deformable(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    folder = tmp_path_factory.mktemp("deformable")
    settings = {"model__variant": "sprint-deformable-n", "train__epochs": 1, "train__recording__features": 0}
    return load_recording(record_run(folder, "run", **settings))


def only(recording: Recording, view: str, **options: Any) -> FilmSpec:
    (film,) = films(view, recording, FilmOptions(next(iter(recording.images)), **options))
    return film


def test_every_view_has_frames_of_one_size_and_its_own_files(recording: Recording) -> None:
    names: list[str] = []
    for view in NAMES:
        for film in films(view, recording, FilmOptions()):
            first, last = (film.draw(i).pixels() for i in (0, film.frames - 1))
            assert first.shape == last.shape and film.frames == 3, view
            assert first.std() > 5 and (first != last).any(), f"{film.name} shows nothing, or nothing moves"
            names.append(film.name)
    images = list(recording.images)
    assert len(set(names)) == len(names) == 1 + 5 * len(images)
    assert {"final", *(f"{p}-{v}" for p in images for v in ("boxes", "mean", "plain", "queries"))} <= set(
        names
    )


def test_one_query_is_shown_by_layer_and_one_convolution_by_channel(
    recording: Recording, deformable: Recording
) -> None:
    query = int(recording.steps[-1].snapshots[next(iter(recording.images))].query_ids[4])
    film = only(recording, "queries", query=query)
    assert film.name.endswith(f"-query-{query}") and film.draw(1).pixels().std() > 5
    film = only(recording, "features", site="backbone.layer2.0.conv1")
    assert film.name.endswith("-features-layer2.0.conv1") and film.draw(1).pixels().std() > 5
    points = only(deformable, "queries", query=0)
    assert points.draw(1).pixels().std() > 5 and only(deformable, "plain").draw(0).pixels().std() > 5


def test_a_query_must_be_stored_for_every_filmed_image(recording: Recording) -> None:
    first, second = recording.images
    last = recording.steps[-1]
    stored = last.snapshots[second]
    snapshots = {**last.snapshots, second: replace(stored, query_ids=stored.query_ids + 100)}
    other = replace(recording, steps=[*recording.steps[:-1], replace(last, snapshots=snapshots)])
    query = int(last.snapshots[first].query_ids[0])
    FilmOptions(image=first, query=query).check(other)
    with pytest.raises(UserError, match=f"query {query} is not stored in the last snapshot of '{second}'"):
        FilmOptions(query=query).check(other)


def test_the_final_film_says_which_images_it_leaves_out(
    recording: Recording, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", log.name)
    (whole,) = films("final", recording, FilmOptions())
    assert "images" not in whole.draw(0).caption.split("attention relative")[0]
    monkeypatch.setattr(final, "MAX_IMAGES", 1)
    (cut,) = films("final", recording, FilmOptions())
    assert "the first 1 of 2 images" in cut.draw(0).caption and "the first 1 of 2 images" in caplog.text


def test_boxes_differs_from_mean_by_boxes(recording: Recording) -> None:
    with_boxes, without = (only(recording, view, threshold=0.0) for view in ("boxes", "mean"))
    one, other = with_boxes.draw(2).pixels(), without.draw(2).pixels()
    height = min(len(one), len(other))
    changed = (one[:height] != other[:height]).any(-1)
    assert 0.005 < changed[60:].mean() < 0.5


def test_attention_is_averaged_over_detected_or_all_queries(recording: Recording) -> None:
    name = next(iter(recording.images))
    trace = recording.traces(name)[-1]
    best, rows = trace.scores().amax(1), trace.record("decoder.2.cross").rows()[0].mean(0)
    for threshold in (0.0, float(best.median()), 1.0):
        film = ProbeFilm(recording, name, FilmOptions(threshold=threshold))
        wanted = [i for i in range(10) if best[i] >= threshold] or [int(best.argmax())]
        assert sorted(film.detected(-1) or wanted) == wanted
        values = film.attention(-1).values.flatten()
        torch.testing.assert_close(values, rows[wanted].mean(0), rtol=0, atol=1e-6)
    every = ProbeFilm(recording, name, FilmOptions(queries="all")).attention(-1).values.flatten()
    torch.testing.assert_close(every, rows.mean(0), rtol=0, atol=1e-3)


def test_curves_are_the_metrics_over_epochs(recording: Recording) -> None:
    rows = [
        {"step": 2, "val/AP": None, "train/loss_class": 3.0},
        {"step": 4, "val/AP": 0.5, "train/loss_class": 1.0},
    ]
    rows = [
        {**row, "lr/base": 1e-3, "lr/base.1d": 1e-3, "lr/backbone": 1e-3, "lr/muon": 4e-3} for row in rows
    ]
    curves = Curves.of(replace(recording, metrics=rows))
    assert curves.charts["AP, %"][0].points == [(2.0, 50.0)]
    assert curves.charts[LOSS][0].points == [(1.0, 3.0), (2.0, 1.0)]
    assert [line.label for line in curves.charts[RATES]] == ["base, backbone", "muon"]
    assert "attention on its object, %" in curves.charts
    bare = Curves.of(replace(recording, metrics=[], attention=[]))
    assert len(bare.charts) == 3 and not any(line.points for lines in bare.charts.values() for line in lines)


def test_a_run_without_ground_truth_or_metrics_is_filmed(recording: Recording) -> None:
    bare = replace(
        recording,
        images={name: replace(trace, targets=None) for name, trace in recording.images.items()},
        metrics=[],
        attention=[],
    )
    (film,) = films("final", bare, FilmOptions())
    assert film.draw(0).pixels().shape == (810, 1440, 3)
    nothing = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    unknown = replace(
        recording, images={name: replace(trace, targets=nothing) for name, trace in recording.images.items()}
    )
    for view in ("final", "boxes", "queries"):
        for run, has_boxes in ((recording, True), (bare, False), (unknown, False)):
            figure = films(view, run, FilmOptions())[0].draw(0)
            assert ("white, dashed: ground truth" in figure.caption) == has_boxes, view


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 9])
@pytest.mark.parametrize("aspect", [0.5, 1.0, 1.7])
def test_grid_rectangles_neither_overlap_nor_leave_their_area(count: int, aspect: float) -> None:
    rects = largest_panel_grid(count, aspect, 700, 500, 8, above=20)
    assert len(rects) == count
    for x, y, w, h in rects:
        assert (
            x >= 0
            and y >= 20
            and x + w <= 700 + 1e-6
            and y + h <= 500 + 1e-6
            and h == pytest.approx(w * aspect)
        )
    for i, (x, y, w, h) in enumerate(rects):
        for u, v, a, b in rects[i + 1 :]:
            assert x + w <= u or u + a <= x or y + h <= v or v + b <= y


def test_a_run_without_features_says_how_to_train(deformable: Recording) -> None:
    with pytest.raises(
        UserError, match=r"no features were recorded; train with train\.recording\.features=4"
    ):
        films("features", deformable, FilmOptions())
    with pytest.raises(UserError, match=r"site 'x': no features were recorded; train with"):
        FilmOptions(site="x").check(deformable)
