"""Training state: averages over processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detrscope.core.errors import UserError
from detrscope.training import train_state
from detrscope.training.sharding import load_optimizer
from detrscope.training.train_state import Averages, TrainProgress, require_same_progress


def test_processes_must_resume_from_the_same_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    require_same_progress(TrainProgress(), Path("run"))
    monkeypatch.setattr(train_state, "gather_objects", lambda mine: [mine, (1, 8, 0)])
    with pytest.raises(
        UserError, match=r"run: the processes have read different checkpoints .step 16 in process 0"
    ):
        require_same_progress(TrainProgress(epoch=2, step=16), Path("run"))


def test_optimizer_state_of_more_parameters_is_refused() -> None:
    small, large = (torch.optim.AdamW([torch.zeros(2) for _ in range(n)]) for n in (1, 3))
    state = large.state_dict() | {"state": {n: {"exp_avg": torch.zeros(2)} for n in range(3)}}
    with pytest.raises(ValueError, match="doesn't match"):
        load_optimizer(small, state)


def test_averages_of_processes_are_weighted_means() -> None:
    one, other = Averages(), Averages()
    one.add({"loss": 1.0, "matched_iou": 0.5, "only_here": 3.0}, {"matched_iou": 3})
    other.add({"loss": 2.0, "matched_iou": 0.9}, {"matched_iou": 1})
    other.add({"loss": 3.0, "matched_iou": float("nan")}, {"matched_iou": 0})
    means = Averages.together([one, other]).means()
    assert means == pytest.approx({"loss": 2.0, "matched_iou": 0.6, "only_here": 3.0})
