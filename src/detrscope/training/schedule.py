"""Learning-rate schedules: functions from the step, counted from 0, to the factor of the full rates."""

from __future__ import annotations

import math
from collections.abc import Callable

from detrscope.training.train_config import ScheduleConfig

Schedule = Callable[[int], float]


def make_schedule(config: ScheduleConfig, steps_per_epoch: int, total_steps: int) -> Schedule:
    """Make the schedule of a run.

    Args:
        config: its settings, in epochs and steps.
        steps_per_epoch: optimiser steps of one epoch.
        total_steps: optimiser steps of the whole run.
    """
    if config.kind == "onecycle":
        return one_cycle(total_steps)
    schedule: Schedule = constant
    if config.kind == "step":
        drops = [epoch * steps_per_epoch for epoch in config.drop_epochs]
        schedule = step_decay(drops, config.drop_factor)
    elif config.kind == "cosine":
        schedule = cosine(round(config.hold * total_steps), total_steps, config.final_factor)
    return warm_up_schedule(schedule, config.warmup_steps) if config.warmup_steps else schedule


def constant(step: int) -> float:
    """Return the full rate at every step."""
    return 1.0


def step_decay(drops: list[int], factor: float) -> Schedule:
    """Multiply the rate by `factor` at each step of `drops` (DETR: once, after 200 of 300 epochs)."""
    return lambda step: factor ** sum(step >= drop for drop in drops)


def cosine(start: int, end: int, final: float) -> Schedule:
    """Keep the full rate up to step `start`, then fall by half a cosine to `final` at step `end`."""
    return lambda step: _half_cosine(1.0, final, (step - start) / max(1, end - start))


def one_cycle(end: int, rise: float = 0.3, first: float = 1 / 25, final: float = 1 / 25e4) -> Schedule:
    """Rise from 1/25 over the first 30% of the steps, then fall to 1/250,000 (Smith and Topin, arXiv:1708.07120)."""
    peak = rise * end - 1

    def factor(step: int) -> float:
        if step <= peak:
            return _half_cosine(first, 1.0, step / max(1.0, peak))
        return _half_cosine(1.0, final, (step - peak) / max(1.0, end - 1 - peak))

    return factor


def warm_up_schedule(schedule: Schedule, steps: int) -> Schedule:
    """Scale the first `steps` steps of a schedule by a straight line up from 1/steps."""
    return lambda step: schedule(step) * min(1.0, (step + 1) / steps)


def _half_cosine(start: float, end: float, progress: float) -> float:
    """Go from `start` to `end` by half a cosine; `progress` in 0..1 is clamped."""
    progress = min(1.0, max(0.0, progress))
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
