"""Length of a run in micro-batches, steps and epochs, and the clock that estimates the remaining time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from detrscope.training.timing import FORWARD, Clock
from detrscope.training.train_config import TrainConfig
from detrscope.training.train_step import MicroBatch


class Loader(Protocol):
    """Micro-batches of one epoch for this process; the same epoch gives the same ones."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[MicroBatch]: ...

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Choose the epoch that is iterated next; its first `skip` micro-batches are left out."""
        ...


@dataclass(frozen=True)
class TrainPlan:
    """Length of a run."""

    micro_batches_per_epoch: int
    steps_per_epoch: int
    total_steps: int

    @classmethod
    def of(cls, config: TrainConfig, loader: Loader) -> TrainPlan:
        """Plan a run. An epoch's last step may have fewer micro-batches than `accumulate`."""
        loader.set_epoch(0)
        micro_batches = len(loader)
        steps = -(-micro_batches // config.accumulate)
        total = steps * config.epochs
        return cls(micro_batches, steps, min(total, config.max_steps or total))

    def snapshot_due(self, step: int, every: int | None) -> bool:
        """Return whether a snapshot is due after `step` steps; `every` None means each epoch."""
        return step % (every or self.steps_per_epoch) == 0 or step >= self.total_steps

    def clock(self, config: TrainConfig, evaluation_forwards: int | None) -> Clock:
        """Make the clock of a run, including evaluations, snapshots and ends of epochs.

        Args:
            config: how often snapshots and evaluations are due.
            evaluation_forwards: forward passes of one evaluation; None: no evaluation.
        """
        intervals = {
            "end of epoch": self.steps_per_epoch,
            "snapshot": config.recording.every or self.steps_per_epoch,
        }
        if evaluation_forwards is not None:
            intervals["evaluation"] = config.evaluate_every * self.steps_per_epoch
        guesses = {"evaluation": FORWARD * (evaluation_forwards or 0)}
        return Clock(self.steps_per_epoch, self.total_steps, intervals, guesses)
