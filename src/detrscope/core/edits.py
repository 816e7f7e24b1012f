"""Interventions are data: what to change at which site. They can be saved beside the trace they made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Bias:
    """Added to the scores before the softmax: hide (-inf) or favour a region, a key, a query's view."""

    site: str
    scores: Tensor  # broadcasts to [B, h, Q, S]


@dataclass(frozen=True)
class Gain:
    """Multiplies attention after the softmax: mute (0) or turn down heads, queries or keys. Nothing is renormalised.

    Where several are named, only their crossing is changed (these heads, for these queries, at these keys); None
    means all.
    """

    site: str
    factor: float = 0.0
    heads: tuple[int, ...] | None = None
    queries: tuple[int, ...] | None = None
    keys: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Swap:
    """Puts a tensor from another trace in place of this site's query, key or value, as the heads see it."""

    site: str
    what: Literal["query", "key", "value"]
    tensor: Tensor  # [B, h, Q, d] for query, [B, h, S, d] for key and value


Edit = Bias | Gain | Swap
