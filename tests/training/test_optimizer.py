from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR

from detrscope.core.errors import UserError
from detrscope.training.ema import Ema
from detrscope.training.optimizer import (
    freeze_backbone,
    groups_table,
    make_optimizer,
    parameter_groups,
    set_rates,
)
from detrscope.training.schedule import make_schedule
from detrscope.training.train_config import EmaConfig, ScheduleConfig, TrainConfig
from tests.support.tiny_training import TinyDetector


def test_the_backbone_has_a_rate_of_its_own() -> None:
    model = TinyDetector()
    base, backbone = parameter_groups(model, TrainConfig())
    assert (base.name, base.lr, base.weight_decay) == ("base", 1e-4, 1e-4)
    assert (backbone.name, backbone.lr, backbone.weight_decay) == ("backbone", 1e-5, 1e-4)
    assert set(backbone.parameters) == {n for n, _ in model.named_parameters() if n.startswith("backbone.")}
    assert base.size + backbone.size == sum(p.numel() for p in model.parameters())


def test_patterns_give_factors_and_the_first_one_wins() -> None:
    config = TrainConfig(lr=1.0, lr_factors={"heads.3.*": 0.1, "heads.*": 0.5, "backbone.1.*": 2.0})
    groups = {g.name: g for g in parameter_groups(TinyDetector(), config)}
    assert {name: g.lr for name, g in groups.items()} == {
        "backbone": 1e-5, "heads.3.*": 0.1, "heads.*": 0.5, "backbone.1.*": 2.0,
    }  # fmt: skip
    assert set(groups["heads.3.*"].parameters) == {"heads.3.weight", "heads.3.bias"}


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"'head\.\*' fits no trainable parameter"):
        parameter_groups(TinyDetector(), TrainConfig(lr_factors={"head.*": 0.1}))


def test_biases_and_norms_can_be_spared_the_decay() -> None:
    groups = {g.name: g for g in parameter_groups(TinyDetector(), TrainConfig(decay_1d=False))}
    assert list(groups) == ["base", "base.1d", "backbone", "backbone.1d"]
    assert all(p.ndim == 1 for p in groups["backbone.1d"].parameters.values())
    assert groups["backbone.1d"].weight_decay == 0 and groups["backbone"].weight_decay == 1e-4


def test_a_frozen_backbone_is_in_no_group_but_in_the_table() -> None:
    from rich.console import Console

    model = TinyDetector()
    freeze_backbone(model)
    groups = parameter_groups(model, TrainConfig())
    assert [g.name for g in groups] == ["base"]
    console = Console(width=100)
    with console.capture() as capture:
        console.print(groups_table(groups, model))
    frozen = sum(p.numel() for p in model.backbone.parameters())
    assert (
        f"{groups[0].size:,}" in capture.get()
        and "frozen" in capture.get()
        and f"{frozen:,}" in capture.get()
    )


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


def test_warmup_rises_in_a_straight_line_and_the_cosine_can_wait() -> None:
    schedule = make_schedule(
        ScheduleConfig(kind="cosine", hold=0.5, final_factor=0.2, warmup_steps=4), 10, 20
    )
    assert [schedule(s) for s in (0, 1, 2, 3)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule(10) == 1.0 and schedule(15) == pytest.approx(0.6) and schedule(20) == pytest.approx(0.2)


def test_rates_are_set_per_group() -> None:
    groups = parameter_groups(TinyDetector(), TrainConfig())
    optimizer = make_optimizer(groups, TrainConfig())
    set_rates(optimizer, groups, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [5e-5, 5e-6]
    set_rates(optimizer, groups, 0.5)  # from the full rate, not from the last one
    assert [g["lr"] for g in optimizer.param_groups] == [5e-5, 5e-6]


def test_ema_follows_its_formula() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    ema = Ema(model, decay=0.9, warmup_steps=0)
    average = 1.0
    for step, weight in enumerate((2.0, 4.0, 3.0), start=1):
        nn.init.constant_(model.weight, weight)
        ema.update(step)
        average = 0.9 * average + 0.1 * weight
    assert float(ema.model.weight) == pytest.approx(average)
    assert not ema.model.weight.requires_grad and not ema.model.training


def test_ema_warms_up_and_copies_counters() -> None:
    model = TinyDetector()
    ema = Ema(model, EmaConfig().decay, warmup_steps=100)
    assert ema.decay_at(1) < 0.01 and ema.decay_at(1000) == pytest.approx(0.9997, abs=1e-4)
    model.backbone[1].num_batches_tracked += 7
    model.backbone[1].running_mean += 1
    ema.update(1)
    assert int(ema.model.backbone[1].num_batches_tracked) == 7
    assert ema.model.backbone[1].running_mean.mean() == pytest.approx(1 - ema.decay_at(1), abs=1e-5)
