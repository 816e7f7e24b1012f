"""Everything that the next step depends on, as plain data that `torch.load(weights_only=True)` reads."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import nn

from detrscope.core.distributed import gather_objects, reduce_over_ranks
from detrscope.core.errors import UserError
from detrscope.training.ema import Ema

FORMAT = 2


@dataclass
class Averages:
    """Means over the steps of an epoch; what is NaN in a step is left out."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, values: Mapping[str, float], weights: Mapping[str, float]) -> None:
        """Take in the values of one step; those with a weight are means over so many things, others count once."""
        for name, value in values.items():
            weight = weights.get(name, 1.0) if value == value else 0.0
            self.sums[name] = self.sums.get(name, 0.0) + (weight * value if weight else 0.0)
            self.counts[name] = self.counts.get(name, 0.0) + weight

    @classmethod
    def together(cls, parts: Sequence[Averages]) -> Averages:
        """What several processes have taken in."""
        whole = cls()
        for part in parts:
            for name in part.sums:
                whole.sums[name] = whole.sums.get(name, 0.0) + part.sums[name]
                whole.counts[name] = whole.counts.get(name, 0.0) + part.counts[name]
        return whole

    def means(self, device: torch.device) -> dict[str, float]:
        """The means, over all devices; one of them may not have met every name."""
        names = sorted({name for part in gather_objects(list(self.sums)) for name in part})
        if not names:
            return {}
        columns = [[self.sums.get(name, 0.0) for name in names], [self.counts.get(name, 0) for name in names]]
        table = torch.tensor(columns, device=device, dtype=torch.float64)
        sums, counts = reduce_over_ranks(table, "sum").tolist()
        means = {name: s / c if c else float("nan") for name, s, c in zip(names, sums, counts, strict=True)}
        order = [*self.sums, *(name for name in names if name not in self.sums)]
        return {name: means[name] for name in order}


@dataclass
class TrainProgress:
    """How far a run has come."""

    epoch: int = 0  # epochs that are finished: trained, evaluated, written down
    passes: int = 0  # forward passes taken in the epoch after those
    step: int = 0  # optimiser steps in all
    seconds: float = 0.0  # spent training in this epoch
    images: int = 0  # seen in this epoch, all devices
    best_ap: float | None = None
    best_epoch: int = 0
    averages: Averages = field(default_factory=Averages)

    def start_epoch(self) -> None:
        """Go on to the next epoch."""
        self.epoch += 1
        self.passes, self.seconds, self.images = 0, 0.0, 0
        self.averages = Averages()

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> TrainProgress:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**tree, "averages": Averages(**tree["averages"])})


def capture(
    fabric: Fabric,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    position: TrainProgress,
) -> dict[str, Any]:
    """The training state. To be called by every process, since each has its own random numbers."""
    return {
        "format": FORMAT,
        "position": asdict(position),
        "averages": gather_objects(asdict(position.averages)),  # of each process
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "ema": ema.model.state_dict() if ema else None,
        "scaler": fabric.strategy.precision.state_dict(),
        "random": gather_objects(random_state()),
    }


def restore(
    state: dict[str, Any], fabric: Fabric, model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None
) -> TrainProgress:
    """Put a captured state back, but for the random numbers, which are `state["random"][rank]`.

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
        position = TrainProgress.from_dict(state["position"])
        parts = [Averages(**part) for part in state["averages"]]
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"training state does not fit this run: {str(error).splitlines()[0][:200]}") from None
    if len(parts) == fabric.world_size:
        position.averages = parts[fabric.global_rank]
    else:  # the sums of all processes, once
        position.averages = Averages.together(parts) if fabric.is_global_zero else Averages()
    return position


def random_state() -> dict[str, Any]:
    """The state of every random number generator that training draws from."""
    name, keys, place, has_gauss, gauss = np.random.get_state()  # the legacy generator that libraries use
    version, words, spare = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(place),
            int(has_gauss),
            float(gauss),
        ],
        "python": [version, list(words), spare],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Go on with the random numbers where `random_state` was taken."""
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
