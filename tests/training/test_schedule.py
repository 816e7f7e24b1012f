"""Learning-rate schedules, beside those of torch."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR

from detrscope.training.schedule import make_schedule
from detrscope.training.train_config import ScheduleConfig


def rates_of(scheduler: LRScheduler, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wants optimizer.step first
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
    return rates


@pytest.mark.parametrize("kind", ["step", "cosine", "onecycle", "constant"])
def test_schedules_equal_those_of_torch(kind: str) -> None:
    steps_per_epoch, epochs = 5, 8
    total = steps_per_epoch * epochs
    config = ScheduleConfig(kind=kind, drop_epochs=(3, 6))  # type: ignore[arg-type]
    schedule = make_schedule(config, steps_per_epoch, total)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    torch_made: dict[str, LRScheduler | None] = {
        "step": MultiStepLR(optimizer, [15, 30]),
        "constant": None,
        "cosine": None,
        "onecycle": None,
    }
    if kind == "cosine":
        torch_made[kind] = CosineAnnealingLR(optimizer, total)
    if kind == "onecycle":
        torch_made[kind] = OneCycleLR(optimizer, 1.0, total_steps=total, cycle_momentum=False)
    scheduler = torch_made[kind]
    wanted = rates_of(scheduler, optimizer, total) if scheduler else [1.0] * total
    assert [schedule(step) for step in range(total)] == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_warmup_is_linear_and_cosine_holds() -> None:
    schedule = make_schedule(
        ScheduleConfig(kind="cosine", hold=0.5, final_factor=0.2, warmup_steps=4), 10, 20
    )
    assert [schedule(s) for s in (0, 1, 2, 3)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule(10) == 1.0 and schedule(15) == pytest.approx(0.6) and schedule(20) == pytest.approx(0.2)
