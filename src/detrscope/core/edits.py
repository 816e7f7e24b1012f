"""Interventions are data: what to change at which site. They can be saved beside the trace they made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from detrscope.core.argument_check import checked_fields
from detrscope.core.errors import UserError


@checked_fields
@dataclass(frozen=True)
class Bias:
    """Added to the scores before the softmax: hide (-inf) or favour a region, a key, a point, a query's view."""

    site: str
    scores: Tensor  # broadcasts to [B, h, Q, S]; at a deformable site to [B, h, Q, P]

    def __post_init__(self) -> None:
        if not self.scores.is_floating_point():
            raise UserError(f"Bias: scores: expected floating-point numbers, found {self.scores.dtype}")
        _refuse_nan("Bias: scores", self.scores)

    @property
    def says(self) -> str:
        """What it does, for captions."""
        hidden = int((self.scores == float("-inf")).sum())
        what = f", hiding {hidden} of {self.scores.numel()}" if hidden else ""
        return f"bias at {self.site}{what}"


@checked_fields
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

    @property
    def says(self) -> str:
        """What it does, for captions."""
        named = (
            ("head", self.heads),
            ("query", self.queries),
            ("key", self.keys),
            ("point", self.points),
            ("level", self.levels),
        )
        where = "".join(f", {_numbers(name, chosen)}" for name, chosen in named if chosen is not None)
        return f"gain {self.factor:g} at {self.site}{where}"


@checked_fields
@dataclass(frozen=True)
class Swap:
    """Puts a tensor from another trace in place of one of this site's, as the heads see it.

    A dense site has query, key and value; a deformable one value, points and weights. Weights are swapped after the
    softmax, and gains are made on what was put there.
    """

    site: str
    what: Literal["query", "key", "value", "points", "weights"]
    tensor: Tensor  # of the shape that the site's record has it in, such as [B, h, S, d] for value

    def __post_init__(self) -> None:
        _refuse_nan("Swap: tensor", self.tensor)

    @property
    def says(self) -> str:
        """What it does, for captions."""
        return f"{self.what} swapped at {self.site}"


Edit = Bias | Gain | Swap
LISTED = 6  # numbers that are named one by one


def _refuse_nan(name: str, tensor: Tensor) -> None:
    if bool(torch.isnan(tensor).any()):
        raise UserError(f"{name}: expected numbers, found NaN among them")


def _numbers(name: str, chosen: tuple[int, ...]) -> str:
    """Such as `head 3`, or `24 keys`."""
    if len(chosen) == 1:
        return f"{name} {chosen[0]}"
    many = "queries" if name == "query" else f"{name}s"
    return f"{many} {', '.join(map(str, chosen))}" if len(chosen) <= LISTED else f"{len(chosen)} {many}"
