"""Random deformable attention of any shape, and what it should give by a plain loop over points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from detrscope.core.probe import Probe
from detrscope.core.types import Level
from detrscope.ops.deformable import sample

SITE = "decoder.0.cross"


@dataclass(frozen=True)
class SamplingInputs:
    """Arguments of `sample`."""

    value: Tensor  # [B, S, h, d]
    points: Tensor  # [B, Q, h, P, 2]
    scores: Tensor  # [B, Q, h, P]
    levels: tuple[Level, ...]
    point_levels: tuple[int, ...]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.value, self.points, self.scores

    def sample(
        self, value: Tensor | None = None, points: Tensor | None = None, scores: Tensor | None = None
    ) -> Tensor:
        return self.sample_with(None, value, points, scores)

    def sample_with(
        self,
        probe: Probe | None,
        value: Tensor | None = None,
        points: Tensor | None = None,
        scores: Tensor | None = None,
    ) -> Tensor:
        images, queries = self.points.shape[:2]
        return sample(
            self.value if value is None else value,
            self.points if points is None else points,
            self.scores if scores is None else scores,
            levels=self.levels,
            point_levels=self.point_levels,
            reference=torch.full((images, queries, len(self.levels), 2), 0.5),
            site=SITE,
            probe=probe,
        )

    def to(self, change: Callable[[Tensor], Tensor]) -> SamplingInputs:
        value, points, scores = (change(x) for x in self.tensors)
        return SamplingInputs(value, points, scores, self.levels, self.point_levels)


def random_inputs(
    seed: int = 0,
    *,
    images: int = 2,
    levels: tuple[tuple[int, int], ...] = ((5, 7), (3, 4), (1, 2)),
    queries: int = 11,
    heads: int = 2,
    point_levels: tuple[int, ...] = (0, 0, 1, 1, 1, 2),
    channels: int = 8,
) -> SamplingInputs:
    """Points in and around the maps, about one in five outside."""
    generator = torch.Generator().manual_seed(seed)
    shape = (images, queries, heads, len(point_levels))
    tokens = sum(height * width for height, width in levels)
    return SamplingInputs(
        torch.randn(images, tokens, heads, channels, generator=generator),
        torch.rand(*shape, 2, generator=generator) * 1.2 - 0.1,
        torch.randn(shape, generator=generator),
        tuple(Level(*level) for level in levels),
        point_levels,
    )


def footprints(of: SamplingInputs) -> Tensor:
    """How much of each token each point reads, one point after the other: [B, h, Q, P, S] float64."""
    images, queries, heads, per_head = of.scores.shape
    starts = [0]
    for height, width in of.levels:
        starts.append(starts[-1] + height * width)
    shares = torch.zeros(images, heads, queries, per_head, starts[-1], dtype=torch.float64)
    for b, h, q, p in itertools.product(*map(range, shares.shape[:4])):
        level = of.point_levels[p]
        height, width = of.levels[level]
        x, y = (of.points[b, q, h, p].double() * torch.tensor([width, height]) - 0.5).tolist()
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < height and 0 <= column < width:
                    token = starts[level] + row * width + column
                    shares[b, h, q, p, token] = (1 - abs(x - column)) * (1 - abs(y - row))
    return shares


def by_definition(of: SamplingInputs, gain: Tensor | float = 1.0) -> Tensor:
    """Bilinear interpolation between the centres of tokens, in float64: [B, Q, h*d].

    `gain` broadcasts to [B, h, Q, P, S] and multiplies what each point finds at each token.
    """
    weights = of.scores.double().softmax(-1).transpose(1, 2)  # [B, h, Q, P]
    rows = (weights[..., None] * footprints(of) * gain).sum(3)  # [B, h, Q, S]
    return (rows @ of.value.double().transpose(1, 2)).transpose(1, 2).flatten(2)


def gradients(of: SamplingInputs, seed: int = 5) -> tuple[Tensor, ...]:
    """Output and gradients of value, points and scores for a random gradient of the output."""
    inputs = [x.detach().clone().requires_grad_() for x in of.tensors]
    out = of.sample(*inputs)
    given = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).to(out)
    return (out.detach(), *torch.autograd.grad(out, inputs, given))
