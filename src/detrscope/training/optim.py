"""Which weights learn how fast, and how that changes over the steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from detrscope.core.errors import UserError, nearest
from detrscope.training.config import ScheduleConfig, TrainConfig
from detrscope.training.muon import Muon

if TYPE_CHECKING:
    from rich.table import Table


SMALLEST_MATRIX = 16  # of the shorter side; orthogonalising less moves too few directions


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate and a weight decay."""

    name: str
    parameters: dict[str, Tensor]
    lr: float
    weight_decay: float
    orthogonal: bool = False  # moved by Muon

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return sum(p.numel() for p in self.parameters.values())


def freeze_backbone(model: nn.Module) -> None:
    """Stop the backbone from learning."""
    for name, parameter in model.named_parameters():
        if name.startswith("backbone."):
            parameter.requires_grad_(False)


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[ParameterGroup]:
    """The trainable parameters by rate: `base`, `backbone`, `muon`, `muon.backbone`, one per pattern of `lr_factors`.

    The first pattern that fits a name wins, and wins over `backbone`. Where `decay_1d` is off, biases and
    norms of a group form a second one, `NAME.1d`, without weight decay.

    Raises:
        UserError: a pattern fits no trainable parameter.
    """
    rates = {"base": config.lr, "backbone": config.lr_backbone}
    rates |= {"muon": config.muon.lr}
    rates |= {"muon.backbone": config.muon.lr * config.lr_backbone / config.lr if config.lr else 0.0}
    rates |= {pattern: config.lr * factor for pattern, factor in config.lr_factors.items()}
    members: dict[tuple[str, bool], dict[str, Tensor]] = {}
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in trainable.items():
        fitting = [pattern for pattern in config.lr_factors if fnmatchcase(name, pattern)]
        group = fitting[0] if fitting else "backbone" if name.startswith("backbone.") else "base"
        if config.muon.enabled and not fitting and is_hidden_matrix(name, parameter):
            group = "muon.backbone" if group == "backbone" else "muon"
        decays = config.decay_1d or parameter.ndim > 1
        members.setdefault((group, decays), {})[name] = parameter
    for pattern in config.lr_factors:
        if not any(fnmatchcase(name, pattern) for name in trainable):
            raise UserError(
                f"train.lr_factors: '{pattern}' fits no trainable parameter; {nearest(pattern, trainable)}"
            )
    order = list(rates)
    groups = []
    for (name, decays), part in sorted(members.items(), key=lambda m: (order.index(m[0][0]), not m[0][1])):
        orthogonal = name.startswith("muon")
        decay = config.muon.weight_decay if orthogonal else config.weight_decay
        full_name = name if decays else f"{name}.1d"
        groups.append(ParameterGroup(full_name, part, rates[name], decay if decays else 0.0, orthogonal))
    return groups


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon suits: a matrix or convolution between hidden layers, not of heads, queries or embeddings."""
    if parameter.ndim < 2 or name.startswith(("heads.", "queries.", "neck.position.", "neck.level")):
        return False
    return min(parameter.shape[0], parameter[0].numel()) >= SMALLEST_MATRIX


def groups_table(groups: Sequence[ParameterGroup], model: nn.Module) -> Table:
    """The groups for the terminal, with what is frozen in the last row."""
    from rich.table import Table

    table = Table(title="parameter groups", title_justify="left")
    for heading in ("group", "tensors", "parameters", "learning rate", "weight decay"):
        table.add_column(heading, justify="left" if heading == "group" else "right")
    for g in groups:
        table.add_row(g.name, str(len(g.parameters)), f"{g.size:,}", f"{g.lr:g}", f"{g.weight_decay:g}")
    frozen = [p for p in model.parameters() if not p.requires_grad]
    if frozen:
        table.add_row("frozen", str(len(frozen)), f"{sum(p.numel() for p in frozen):,}", "-", "-")
    return table


def make_optimizer(groups: Sequence[ParameterGroup], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the groups, with Muon for its own; a group's arithmetic in one kernel where the device has it."""
    scaled = config.precision == "fp16"  # its scaler must skip a whole step, and be undone before clipping
    fused = not scaled and all(
        p.device.type in ("cpu", "cuda") for group in groups for p in group.parameters.values()
    )
    settings = [
        {"name": g.name, "params": list(g.parameters.values()), "lr": g.lr, "weight_decay": g.weight_decay}
        for g in groups
    ]
    if not config.muon.enabled:
        return torch.optim.AdamW(settings, fused=fused)
    marked = [{**s, "orthogonal": g.orthogonal} for s, g in zip(settings, groups, strict=True)]
    return Muon(marked, momentum=config.muon.momentum, iterations=config.muon.iterations, fused=fused)


class Schedule(Protocol):
    """What learning rates are multiplied by at a step; steps count from 0."""

    def __call__(self, step: int) -> float:
        """The factor for the step about to be taken."""
        ...


@dataclass(frozen=True)
class Constant:
    """Always the full rate."""

    def __call__(self, step: int) -> float:
        """The factor for the step about to be taken."""
        return 1.0


@dataclass(frozen=True)
class StepDecay:
    """Full rate, multiplied by `factor` at each of `steps` (DETR: once, after 200 of 300 epochs)."""

    steps: tuple[int, ...]
    factor: float

    def __call__(self, step: int) -> float:
        """The factor for the step about to be taken."""
        return self.factor ** sum(step >= drop for drop in self.steps)


@dataclass(frozen=True)
class Cosine:
    """Full rate up to step `start`, then half a cosine down to `final` at step `end`."""

    start: int
    end: int
    final: float

    def __call__(self, step: int) -> float:
        """The factor for the step about to be taken."""
        return _cosine(1.0, self.final, (step - self.start) / max(1, self.end - self.start))


@dataclass(frozen=True)
class OneCycle:
    """Up from 1/25 over the first 30% of the steps, down to 1/250,000 (Smith and Topin, arXiv:1708.07120)."""

    end: int
    rise: float = 0.3
    first: float = 1 / 25
    final: float = 1 / 25e4

    def __call__(self, step: int) -> float:
        """The factor for the step about to be taken."""
        peak = self.rise * self.end - 1
        if step <= peak:
            return _cosine(self.first, 1.0, step / max(1.0, peak))
        return _cosine(1.0, self.final, (step - peak) / max(1.0, self.end - 1 - peak))


@dataclass(frozen=True)
class Warmup:
    """Another schedule, its first `steps` steps scaled by a straight line up from 1/steps."""

    steps: int
    then: Schedule

    def __call__(self, step: int) -> float:
        """The factor for the step about to be taken."""
        return self.then(step) * min(1.0, (step + 1) / self.steps)


def make_schedule(config: ScheduleConfig, steps_per_epoch: int, total_steps: int) -> Schedule:
    """The schedule of a run.

    Args:
        config: its settings, in epochs and steps.
        steps_per_epoch: optimiser steps of one epoch.
        total_steps: optimiser steps of the whole run.
    """
    if config.kind == "onecycle":
        return OneCycle(total_steps)
    schedule: Schedule = Constant()
    if config.kind == "step":
        schedule = StepDecay(
            tuple(epoch * steps_per_epoch for epoch in config.drop_epochs), config.drop_factor
        )
    elif config.kind == "cosine":
        schedule = Cosine(round(config.hold * total_steps), total_steps, config.final_factor)
    return Warmup(config.warmup_steps, schedule) if config.warmup_steps else schedule


def set_rates(optimizer: torch.optim.Optimizer, groups: Sequence[ParameterGroup], factor: float) -> None:
    """Give every group its own rate times the schedule's factor."""
    for live, group in zip(optimizer.param_groups, groups, strict=True):
        live["lr"] = group.lr * factor


def _cosine(start: float, end: float, done: float) -> float:
    """Half a cosine from `start` to `end`; `done` in 0..1, clamped."""
    done = min(1.0, max(0.0, done))
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
