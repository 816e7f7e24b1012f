"""A budget of time for a training: how many steps this machine takes in it, measured and not guessed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, count, islice
from typing import Any

from detrscope.console import log
from detrscope.data.loader import DetectionLoader
from detrscope.training.launch import make_fabric, resolve_precision
from detrscope.training.loop import TrainPlan
from detrscope.training.schedule import make_schedule
from detrscope.training.setup import make_model, make_train_loader, open_data, resolve_run
from detrscope.training.timing import COLD, MEASURED, Clock, in_words
from detrscope.training.train_state import seed_all
from detrscope.training.train_step import TrainStep


def measure_step(preset: str, overrides: Mapping[str, Any]) -> float:
    """Seconds of a warm training step, from a few steps whose weights are thrown away.

    Args:
        preset: the recipe that would be trained.
        overrides: settings that differ from it; the data among them.
    """
    config = resolve_precision(resolve_run(preset=preset, overrides=overrides))
    fabric = make_fabric(config.train)
    fabric.launch()
    dataset, _ = open_data(config)
    seed_all(config.train.seed)
    loaded, config = make_model(config, dataset, fresh=True)
    loader = make_train_loader(config, dataset, loaded.card, fabric)
    learner = TrainStep(loaded.model, config.train, fabric)
    plan = TrainPlan.of(config.train, loader)
    schedule = make_schedule(config.train.schedule, plan.steps_per_epoch, plan.total_steps)
    learner.train_mode()
    clock = Clock(plan.steps_per_epoch, plan.total_steps)
    batches = chain.from_iterable(_epochs(loader))
    for number, one in enumerate(islice(batches, COLD + MEASURED)):
        learner.step([one], number, schedule)
        clock.step()
    seconds = clock.seconds_per_step
    assert seconds is not None
    return seconds


def _epochs(loader: DetectionLoader) -> Iterator[DetectionLoader]:
    for epoch in count():
        loader.set_epoch(epoch)
        yield loader


def steps_within(seconds: float, each: float, most: int, least: int) -> int:
    """How many steps of `each` seconds fit into a budget, within limits; says what was chosen and why."""
    fitting = round(seconds / each)
    steps = min(most, max(least, fitting))
    if steps == most:
        why = "all of the recipe's"
    elif steps == fitting:
        why = f"as many as fit into {in_words(seconds)}; the recipe has {most}"
    else:
        why = f"the least that is worth it; only {fitting} would fit into {in_words(seconds)}"
    log.info("%d steps of %.2g s, about %s: %s", steps, each, in_words(steps * each), why)
    return steps
