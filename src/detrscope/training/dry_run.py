"""A training run tried out: how long it takes, how much memory, whether the model can learn one batch by heart."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from lightning.fabric import Fabric

from detrscope.checkpoints.native import Loaded
from detrscope.core.errors import UserError
from detrscope.data.loader import DetectionLoader
from detrscope.training.config import RunConfig
from detrscope.training.memory_estimate import estimate_memory
from detrscope.training.plan import TrainPlan
from detrscope.training.schedule import make_schedule
from detrscope.training.timing import FORWARD, peak_memory_mb
from detrscope.training.train_step import MicroBatch, TrainStep, Values

MEASURED = 5  # steps on different batches
WARM = 2  # steps before them
OVERFIT_STEPS = 120
OVERFIT_SECONDS = 60.0
LEARNED = 0.6  # of the first loss: a batch whose loss stays above is not being learned


@dataclass(frozen=True)
class DryRun:
    """What a training run will be like.

    Attributes:
        steps: optimiser steps of the run.
        steps_per_epoch: optimiser steps of an epoch.
        seconds_per_step: median of a few steps, loading of images included.
        seconds: of the whole run, evaluations included.
        memory_mb: peak of this process, or of the GPU; None where it is not known.
        least_memory_mb: lower bound that is checked before a run.
        images: images of the batch that was learned by heart.
        boxes: boxes of that batch.
        overfit_steps: steps on it.
        loss: its loss at first and at last, in the mean over some steps.
        matched_iou: overlap of boxes with their objects at first and at last.
    """

    steps: int
    steps_per_epoch: int
    seconds_per_step: float
    seconds: float
    memory_mb: int | None
    least_memory_mb: int
    images: int
    boxes: int
    overfit_steps: int
    loss: tuple[float, float]
    matched_iou: tuple[float, float]

    @property
    def learns(self) -> bool:
        """Whether the loss of one batch fell as it should."""
        return self.loss[1] < LEARNED * self.loss[0]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**vars(self), "learns": self.learns}


def dry_run(
    config: RunConfig,
    loaded: Loaded,
    loader: DetectionLoader,
    fabric: Fabric,
    *,
    classes: int,
    evaluation_forwards: int = 0,
    on_step: Callable[[int, Values], object] = lambda *_: None,
) -> DryRun:
    """Take a few steps of a run, then many on one batch; the weights are discarded.

    Args:
        config: settings of the run.
        loaded: model and card.
        loader: batches of the run.
        fabric: device and precision.
        classes: number of classes.
        evaluation_forwards: forward passes of one evaluation; 0 where there is none.
        on_step: called with the number of steps on the one batch and their values.

    Raises:
        UserError: no batch has a box.
    """
    train_step = TrainStep(loaded.model, config.train, fabric)
    plan = TrainPlan.of(config.train, loader)
    schedule = make_schedule(config.train.schedule, plan.steps_per_epoch, plan.total_steps)
    train_step.train_mode()
    times: list[float] = []
    batch: MicroBatch | None = None
    last = time.perf_counter()
    for number, micro_batch in enumerate(loader):
        if batch is None and any(len(target.labels) for target in micro_batch[1]):
            batch = micro_batch
        if number < WARM + MEASURED:
            train_step.step([micro_batch], number, schedule)
            times.append(time.perf_counter() - last)
            last = time.perf_counter()
        elif batch is not None:
            break
    if batch is None:
        raise UserError("train: no image has a box, so that nothing can be learned")
    each = median(times[WARM:] or times)
    losses, overlaps = _overfit(train_step, batch, on_step)
    few = max(1, len(losses) // 10)
    epochs = -(-plan.total_steps // plan.steps_per_epoch)
    evaluations = -(-epochs // config.train.evaluate_every) if evaluation_forwards else 0
    accumulate = config.train.accumulate
    return DryRun(
        steps=plan.total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        seconds_per_step=each * accumulate,
        seconds=each * (plan.total_steps * accumulate + evaluations * evaluation_forwards * FORWARD),
        memory_mb=peak_memory_mb(fabric.device),
        least_memory_mb=estimate_memory(config, classes) >> 20,
        images=len(batch[1]),
        boxes=sum(len(target.labels) for target in batch[1]),
        overfit_steps=len(losses),
        loss=(sum(losses[:few]) / few, sum(losses[-few:]) / few),
        matched_iou=(sum(overlaps[:few]) / few, sum(overlaps[-few:]) / few),
    )


def _overfit(
    train_step: TrainStep, batch: MicroBatch, on_step: Callable[[int, Values], object]
) -> tuple[list[float], list[float]]:
    """Return losses and overlaps of matched boxes over steps on one batch, at the full learning rate."""
    losses: list[float] = []
    overlaps: list[float] = []
    start = time.perf_counter()
    while len(losses) < OVERFIT_STEPS and time.perf_counter() - start < OVERFIT_SECONDS:
        values = train_step.step([batch], len(losses), lambda _: 1.0)
        losses.append(values["loss"])
        overlaps.append(values["matched_iou"])
        on_step(len(losses), values)
    return losses, overlaps
