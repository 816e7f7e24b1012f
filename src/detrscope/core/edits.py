"""Interventions are data: what to change at which site. They can be saved beside the trace they made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Bias:
    """Added to the scores before the softmax: hide (-inf) or favour a region, a key, a point, a query's view."""

    site: str
    scores: Tensor  # broadcasts to [B, h, Q, S]; at a deformable site to [B, h, Q, P]


@dataclass(frozen=True)
class Gain:
    """Multiplies attention after the softmax: mute (0) or turn down heads, queries, keys... Nothing is renormalised.

    Where several are named, only their crossing is changed (these heads, for these queries, at these keys); None
    means all. Keys are the tokens looked at, at a deformable site too: there a key is a column of the exact dense map.
    Levels are the feature maps, where the keys are their tokens; points are the sampling points of a deformable site,
    0 to P - 1.
    """

    site: str
    factor: float = 0.0
    heads: tuple[int, ...] | None = None
    queries: tuple[int, ...] | None = None
    keys: tuple[int, ...] | None = None
    points: tuple[int, ...] | None = None
    levels: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Swap:
    """Puts a tensor from another trace in place of one of this site's, as the heads see it.

    A dense site has query, key and value; a deformable one value, points and weights. Weights are swapped after the
    softmax, and gains are made on what was put there.
    """

    site: str
    what: Literal["query", "key", "value", "points", "weights"]
    tensor: Tensor  # of the shape that the site's record has it in, such as [B, h, S, d] for value


Edit = Bias | Gain | Swap
