"""Curves of runs."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detrscope.core.errors import UserError
from detrscope.views.training_curves import draw_curves, read_training_curves


def write_run(folder: Path, epochs: int, *, tail: str = "", **more: Any) -> Path:
    folder.mkdir(parents=True)
    lines = []
    for epoch in range(1, epochs + 1):
        row = {"epoch": epoch, "step": 10 * epoch, "train/loss": 5 / epoch, "train/loss_class": 2 / epoch}
        row |= {"lr/main": 1e-4, "lr/backbone": 1e-5, "seconds": 3.0, **more}
        if epoch % 2 == 0:
            row |= {"val/AP": 0.01 * epoch, "val/AP50": 0.02 * epoch, "val/AP_small": None}
        lines.append(json.dumps(row))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n" + tail)
    return folder


def lines_of(picture: Any) -> list[dict[str, list[float]]]:
    """For each panel: label -> values."""
    return [
        {str(line.get_label()): [float(y) for y in line.get_ydata()] for line in ax.lines}
        for ax in picture.figure().axes
    ]


def legends_of(picture: Any) -> list[list[str]]:
    legends = [ax.get_legend() for ax in picture.figure().axes]
    return [[text.get_text() for text in legend.get_texts()] if legend else [] for legend in legends]


def test_one_run_shows_every_term_in_groups(tmp_path: Path) -> None:
    """Terms of the last layer by name, those of another query set as one; equal learning rates as one; AP apart."""
    more = {
        "train/loss_class_proposals": 0.25,
        "train/loss_giou_proposals": 0.5,
        "lr/head": 1e-4,
        "val/loss": 3.0,
    }
    picture = draw_curves([write_run(tmp_path / "a", 4, **more)], tmp_path / "curves.png")
    losses, terms, precision, rates = lines_of(picture)
    assert losses["total"] == [5, 2.5, pytest.approx(5 / 3), 1.25] and losses["_"] == [3.0] * 4  # val, dashed
    assert terms["class"] == [2, 1, pytest.approx(2 / 3), 0.5] and losses["proposals"] == [0.75] * 4
    assert set(losses) == {"total", "_", "proposals"} and set(terms) == {"class"}
    assert precision["AP"] == pytest.approx([2, 4])  # percent
    assert precision["AP50"] == pytest.approx([4, 8])
    assert "AP_small" not in precision  # undefined throughout
    assert rates["main, head"] == [1e-4] * 4 and rates["backbone"] == [1e-5] * 4
    assert legends_of(picture)[:2] == [["total", "proposals"], ["class"]]
    figure = picture.figure()
    figure.canvas.draw()  # type: ignore[attr-defined]
    for axes in figure.axes:  # a legend covers no line
        legend = axes.get_legend()
        assert legend is not None and legend.get_window_extent().y1 < axes.get_window_extent().y0
    pixels = picture.pixels()
    assert pixels.shape == (480, 1800, 3)
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_several_runs_have_a_legend_that_tells_them_apart(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "x" / "a", 4),
        write_run(tmp_path / "b", 6),
        write_run(tmp_path / "y" / "a", 2),
    ]
    picture = draw_curves(runs)
    names = ["x/a", "b", "y/a"]
    assert legends_of(picture) == [names, names, names]
    losses, _, rates = lines_of(picture)
    assert len(losses["b"]) == 6
    assert rates["b"] == [1e-4] * 6  # the largest of its rates
    colours = [line.get_color() for line in picture.figure().axes[0].lines]
    assert len(set(colours)) == 3


def test_missing_keys_leave_a_panel_empty_not_broken(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.jsonl").write_text('{"epoch": 1, "val/AP": 0.5}\n')
    picture = draw_curves([tmp_path / "a"])
    assert [len(panel) > 0 for panel in lines_of(picture)] == [False, False, True, False]
    several = draw_curves([tmp_path / "a", write_run(tmp_path / "b", 2)])
    assert legends_of(several)[0] == ["b"]


def test_a_run_that_has_just_begun_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.jsonl").write_text("")
    assert draw_curves([tmp_path / "a"]).pixels().std() > 0


def test_a_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", 3, tail='{"epoch": 4, "train/lo')
    assert read_training_curves(run).series["train/loss"][0] == [1, 2, 3]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", 2, tail='{"epoch": 3, "tr\n{"epoch": 4}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:3: expected a JSON object"):
        draw_curves([run])


def test_a_folder_without_metrics_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be read .* expected a run folder"):
        draw_curves([tmp_path])


def test_after_a_resume_the_later_line_of_an_epoch_counts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", 3, tail='{"epoch": 2, "train/loss": 9}\n')
    assert read_training_curves(run).series["train/loss"] == ([1, 2, 3], [5, 9, pytest.approx(5 / 3)])


def test_values_that_are_not_finite_leave_a_gap(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "a", 2, tail='{"epoch": 3, "train/loss": NaN}\n{"epoch": 4, "train/loss": 1}\n'
    )
    assert read_training_curves(run).series["train/loss"][0] == [1, 2, 4]


def test_a_refresh_takes_less_than_a_second(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", 300)
    times = []
    for _ in range(3):
        start = time.process_time()
        draw_curves([run], tmp_path / "curves.png")
        times.append(time.process_time() - start)
    assert min(times) < 1


def test_a_metrics_file_is_a_run_too(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", 2)
    by_file = draw_curves([run / "metrics.jsonl"]).pixels()
    np.testing.assert_array_equal(by_file, draw_curves([run]).pixels())


@pytest.mark.parametrize("name", ["a", "a-run-with-a-name-of-some-length", "x" * 90])
def test_long_names_leave_room_for_the_charts(tmp_path: Path, name: str) -> None:
    """Names of every length, and whole paths where two runs have the same name."""
    runs = [write_run(tmp_path / part / name, 3) for part in ("first", "second")]
    for chosen in (runs, runs[:1]):
        picture = draw_curves(chosen, tmp_path / "curves.png")
        figure = picture.figure()
        figure.canvas.draw()  # type: ignore[attr-defined]
        assert all(axes.get_window_extent().width > 200 for axes in figure.axes)
