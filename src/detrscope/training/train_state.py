"""The training state: everything the next step depends on, as plain data for `torch.load(weights_only=True)`."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detrscope.console import log
from detrscope.core.distributed import gather_objects
from detrscope.core.errors import UserError
from detrscope.ops.kernels.speed_choices import keep_speed_choices, speed_choices
from detrscope.training.sharding import load_optimizer, load_weights, whole
from detrscope.training.train_step import TrainStep

FORMAT = 3


@dataclass
class Averages:
    """Means over the steps of an epoch; a value that is NaN in a step is left out."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, values: Mapping[str, float], weights: Mapping[str, float]) -> None:
        """Add the values of one step; `weights` are the counts that some of them are means over, others count once."""
        for name, value in values.items():
            weight = weights.get(name, 1.0) if value == value else 0.0
            self.sums[name] = self.sums.get(name, 0.0) + (weight * value if weight else 0.0)
            self.counts[name] = self.counts.get(name, 0.0) + weight

    @classmethod
    def together(cls, parts: Sequence[Averages]) -> Averages:
        """Add up the averages of several processes."""
        whole = cls()
        for part in parts:
            for name in part.sums:
                whole.sums[name] = whole.sums.get(name, 0.0) + part.sums[name]
                whole.counts[name] = whole.counts.get(name, 0.0) + part.counts[name]
        return whole

    def means(self) -> dict[str, float]:
        """Return the means over all processes; must be called by every process."""
        whole = Averages.together(gather_objects(self))
        return {
            name: s / whole.counts[name] if whole.counts[name] else math.nan for name, s in whole.sums.items()
        }


@dataclass
class TrainProgress:
    """Progress of a run."""

    epoch: int = 0  # finished epochs: trained, evaluated, written
    micro_batches: int = 0  # taken in the current epoch
    step: int = 0  # optimiser steps taken
    seconds: float = 0.0  # of training in the current epoch
    images: int = 0  # trained on in the current epoch, all devices
    best_ap: float | None = None
    best_epoch: int = 0
    averages: Averages = field(default_factory=Averages)

    def start_epoch(self) -> None:
        """Go on to the next epoch."""
        self.epoch += 1
        self.micro_batches, self.seconds, self.images = 0, 0.0, 0
        self.averages = Averages()


def capture_train_state(train_step: TrainStep, progress: TrainProgress) -> dict[str, Any]:
    """Return the training state. Must be called by every process, since each has its own random state."""
    return {
        "format": FORMAT,
        "progress": asdict(progress),
        "averages": gather_objects(asdict(progress.averages)),  # of each process
        "model": whole(train_step.model.state_dict()),
        "optimizer": whole(train_step.optimizer.state_dict()),
        "ema": train_step.ema.model.state_dict() if train_step.ema else None,
        "scaler": train_step.fabric.strategy.precision.state_dict(),
        "random": gather_objects(random_state(train_step.fabric.device)),
        "speed_choices": gather_objects(speed_choices()),
    }


def restore_train_state(state: dict[str, Any], train_step: TrainStep) -> TrainProgress:
    """Restore a captured state, random numbers included.

    Raises:
        UserError: the state is of another format, or does not fit the model.
    """
    if state.get("format") != FORMAT:
        raise UserError(
            f"training state has format {state.get('format')}; this version reads format {FORMAT}"
        )
    try:
        load_weights(train_step.model, state["model"])
        load_optimizer(train_step.optimizer, state["optimizer"])
        if train_step.ema:
            train_step.ema.model.load_state_dict(state["ema"])
        if state["scaler"]:
            train_step.fabric.strategy.precision.load_state_dict(state["scaler"])
        parts = [Averages(**part) for part in state["averages"]]
        progress = TrainProgress(**{**state["progress"], "averages": Averages()})
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"training state does not fit this run: {str(error).splitlines()[0][:200]}") from None
    rank, world = train_step.fabric.global_rank, train_step.fabric.world_size
    choices = state.get("speed_choices", [])  # absent in states of earlier versions
    if len(choices) == world:
        keep_speed_choices(choices[rank])
    if len(parts) == world:
        progress.averages = parts[rank]
        set_random_state(state["random"][rank])
    else:
        progress.averages = Averages() if rank else Averages.together(parts)  # the sums of all, once
        log.warning("resuming on another number of devices: dropout will not be that of an uninterrupted run")
    return progress


def require_same_progress(progress: TrainProgress, folder: Path) -> None:
    """Check that every process goes on from the same checkpoint: each reads its own file.

    Raises:
        UserError: they have read different ones.
    """
    points = gather_objects((progress.epoch, progress.step, progress.micro_batches))
    if len(set(points)) > 1:
        listed = ", ".join(f"step {step} in process {rank}" for rank, (_, step, _) in enumerate(points))
        raise UserError(
            f"{folder}: the processes have read different checkpoints ({listed}): copy the folder of the first to the"
            " other machines, or use a shared file system"
        )


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of every random number generator that training draws from."""
    name, keys, index, has_gauss, gauss = np.random.get_state()  # the legacy generator that libraries use
    version, words, spare = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if device.type == "cuda" else None,
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(index),
            int(has_gauss),
            float(gauss),
        ],
        "python": [version, list(words), spare],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore every random number generator to a `random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, words, spare = state["python"]
    random.setstate((version, tuple(words), spare))


def seed_all(seed: int) -> None:
    """Seed every generator that training draws from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
