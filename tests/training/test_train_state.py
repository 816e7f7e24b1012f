"""Training state: averages over processes."""

from __future__ import annotations

import pytest

from detrscope.training.train_state import Averages


def test_averages_of_processes_are_weighted_means() -> None:
    one, other = Averages(), Averages()
    one.add({"loss": 1.0, "matched_iou": 0.5, "only_here": 3.0}, {"matched_iou": 3})
    other.add({"loss": 2.0, "matched_iou": 0.9}, {"matched_iou": 1})
    other.add({"loss": 3.0, "matched_iou": float("nan")}, {"matched_iou": 0})
    means = Averages.together([one, other]).means()
    assert means == pytest.approx({"loss": 2.0, "matched_iou": 0.6, "only_here": 3.0})
