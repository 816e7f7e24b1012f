"""Running average of the weights (Polyak averaging): less noisy than the weights of any one step."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn


class Ema:
    """The average model, ready to be evaluated and saved.

    average <- d * average + (1 - d) * weights, with d = decay * (1 - exp(-step / warmup_steps)), so that
    early steps are forgotten fast. Norm statistics are averaged too; counters are copied.
    """

    def __init__(self, model: nn.Module, decay: float, warmup_steps: int) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.warmup_steps = warmup_steps
        self._pairs = _matching_tensors(self.model, model)

    def decay_at(self, step: int) -> float:
        """Return the fraction of the average that is kept at optimiser step `step`, counted from 1."""
        return self.decay * (1 - math.exp(-step / self.warmup_steps)) if self.warmup_steps else self.decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the weights after optimiser step `step`, counted from 1."""
        averages, weights, counters = self._pairs
        torch._foreach_lerp_(averages, weights, 1 - self.decay_at(step))
        for average, value in counters:
            average.copy_(value)


def _matching_tensors(
    average: nn.Module, model: nn.Module
) -> tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Return floating averages, the weights they follow, and pairs of integer buffers."""
    weights = model.state_dict(keep_vars=True)
    pairs = [(tensor, weights[name]) for name, tensor in average.state_dict(keep_vars=True).items()]
    floating = [(a, w) for a, w in pairs if a.is_floating_point()]
    return (
        [a for a, _ in floating],
        [w for _, w in floating],
        [(a, w) for a, w in pairs if not a.is_floating_point()],
    )
