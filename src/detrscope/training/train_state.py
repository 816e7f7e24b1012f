"""The training state: everything the next step depends on, as plain data for `torch.load(weights_only=True)`."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import nn

from detrscope.core.distributed import gather_objects
from detrscope.core.errors import UserError
from detrscope.training.ema import Ema

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
        """Return the means over all processes; every process is to call it."""
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

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> TrainProgress:
        """Invert `dataclasses.asdict`."""
        return cls(**{**tree, "averages": Averages(**tree["averages"])})


def capture(
    fabric: Fabric,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    progress: TrainProgress,
) -> dict[str, Any]:
    """Return the training state. Every process is to call it, since each has its own random numbers."""
    return {
        "format": FORMAT,
        "progress": asdict(progress),
        "averages": gather_objects(asdict(progress.averages)),  # of each process
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "ema": ema.model.state_dict() if ema else None,
        "scaler": fabric.strategy.precision.state_dict(),
        "random": gather_objects(random_state()),
    }


def restore(
    state: dict[str, Any], fabric: Fabric, model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None
) -> TrainProgress:
    """Restore a captured state, except for the random numbers, which are `state["random"][rank]`.

    Raises:
        UserError: the state is of another format, or does not fit the model.
    """
    if state.get("format") != FORMAT:
        raise UserError(
            f"training state has format {state.get('format')}; this version reads format {FORMAT}"
        )
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if ema:
            ema.model.load_state_dict(state["ema"])
        if state["scaler"]:
            fabric.strategy.precision.load_state_dict(state["scaler"])
        progress = TrainProgress.from_dict(state["progress"])
        parts = [Averages(**part) for part in state["averages"]]
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"training state does not fit this run: {str(error).splitlines()[0][:200]}") from None
    if len(parts) == fabric.world_size:
        progress.averages = parts[fabric.global_rank]
    else:  # the sums of all processes, once
        progress.averages = Averages.together(parts) if fabric.is_global_zero else Averages()
    return progress


def random_state() -> dict[str, Any]:
    """Return the state of every random number generator that training draws from."""
    name, keys, index, has_gauss, gauss = np.random.get_state()  # the legacy generator that libraries use
    version, words, spare = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
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
