"""Precision-recall curves."""

from pathlib import Path

import numpy as np
import pytest

from detrscope.views.precision_recall import MAX_LINES, ThresholdMarks, draw_precision_recall


def test_a_line_for_each_class_and_one_for_their_mean(tmp_path: Path) -> None:
    high, low = [1.0] * 101, [1.0] * 50 + [0.0] * 51
    picture = draw_precision_recall({"cat": (high, low), "dog": (low, low)}, tmp_path / "pr.svg", title="run")
    left, right = picture.figure().axes
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == ["cat 100.0", "dog 49.5", "mean of 2 classes 74.8"]
    mean = np.asarray(left.lines[-1].get_ydata())
    assert mean[0] == 1 and mean[-1] == pytest.approx(0.5)
    assert right.get_legend().get_texts()[0].get_text() == "cat 49.5"
    assert (tmp_path / "pr.svg").read_text().startswith("<?xml")


def test_of_many_classes_the_best_and_worst_are_named() -> None:
    curves = {f"class {i:02}": ([i / 20] * 101, [i / 20] * 101) for i in range(20)}
    ax = draw_precision_recall(curves).figure().axes[0]
    labels = [text.get_text().split(" 9")[0] for text in ax.get_legend().get_texts()]
    assert len(labels) == MAX_LINES + 1
    assert labels[0].startswith("class 19") and labels[-2].startswith("class 00")
    assert len(ax.lines) == 21


def test_missing_ground_truth_is_written() -> None:
    picture = draw_precision_recall({})
    assert "no ground truth" in picture.figure().axes[0].texts[0].get_text()
    assert picture.pixels().shape == (560, 1200, 3)


def test_operating_points_are_marked_at_iou_50_only() -> None:
    marks = ThresholdMarks([0.2, 0.6], [1.0, 0.7], [(0.6, 0.7, "f1 at 0.31")])
    left, right = draw_precision_recall({"cat": ([1.0] * 101, [0.5] * 101)}, marks=marks).figure().axes
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == ["cat 100.0", "all classes together"]
    assert [text.get_text() for text in left.texts] == ["f1 at 0.31"] and not right.texts
    assert [np.asarray(line.get_xdata()).tolist() for line in left.lines][-1] == [0.6]


def test_labels_of_near_operating_points_are_stacked() -> None:
    points = [(0.9, 0.95, "a"), (0.9, 0.95, "b"), (0.95, 0.89, "c"), (0.2, 0.95, "d")]
    picture = draw_precision_recall(
        {"cat": ([1.0] * 101, [0.5] * 101)}, marks=ThresholdMarks([0.2, 0.9], [1.0, 0.9], points)
    )
    texts = [text.get_text() for text in picture.figure().axes[0].texts]
    assert [text for text in texts if text] == ["a\nb\nc", "d"]
