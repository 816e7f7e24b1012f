"""Choose the number of steps by a budget of time, from the measured speed of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, count, islice
from typing import Any

from detrscope.console import log
from detrscope.data.loader import DetectionLoader
from detrscope.training.launch import make_fabric, resolve_precision
from detrscope.training.plan import TrainPlan
from detrscope.training.schedule import make_schedule
from detrscope.training.setup import (
    make_training_loader,
    make_training_model,
    open_training_data,
    resolve_run,
)
from detrscope.training.timing import COLD, MEASURED, Clock, format_training_time
from detrscope.training.train_state import seed_all
from detrscope.training.train_step import TrainStep


def measure_step(preset: str, overrides: Mapping[str, Any]) -> float:
    """Measure the seconds of a warm training step, by a few steps whose weights are discarded.

    Args:
        preset: the recipe.
        overrides: settings that differ from it, the dataset among them.
    """
    config = resolve_precision(resolve_run(preset=preset, overrides=overrides))
    fabric = make_fabric(config.train)
    fabric.launch()
    dataset, _ = open_training_data(config)
    seed_all(config.train.seed)
    loaded, config = make_training_model(config, dataset, fresh=True)
    loader = make_training_loader(config, dataset, loaded.card, fabric)
    train_step = TrainStep(loaded.model, config.train, fabric)
    plan = TrainPlan.of(config.train, loader)
    schedule = make_schedule(config.train.schedule, plan.steps_per_epoch, plan.total_steps)
    train_step.train_mode()
    clock = Clock(plan.steps_per_epoch, plan.total_steps)
    micro_batches = chain.from_iterable(_epochs(loader))
    for number, micro_batch in enumerate(islice(micro_batches, COLD + MEASURED)):
        train_step.step([micro_batch], number, schedule)
        clock.step()
    seconds = clock.seconds_per_step
    assert seconds is not None
    return seconds


def _epochs(loader: DetectionLoader) -> Iterator[DetectionLoader]:
    for epoch in count():
        loader.set_epoch(epoch)
        yield loader


def steps_within(seconds: float, each: float, most: int, least: int) -> int:
    """Return how many steps of `each` seconds fit into a budget, within limits, and log why."""
    fitting = round(seconds / each)
    steps = min(most, max(least, fitting))
    if steps == most:
        why = "all of the recipe's"
    elif steps == fitting:
        why = f"as many as fit into {format_training_time(seconds)}; the recipe has {most}"
    else:
        why = f"the least that is useful; only {fitting} would fit into {format_training_time(seconds)}"
    log.info("%d steps of %.2g s, about %s: %s", steps, each, format_training_time(steps * each), why)
    return steps
