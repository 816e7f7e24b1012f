"""Edits: interventions on attention as data, saved with the trace that they changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from detrscope.core.argument_check import check_field_arguments
from detrscope.core.errors import UserError


@check_field_arguments
@dataclass(frozen=True)
class Bias:
    """Bias on the scores before the softmax: hides (-inf) or favours keys or points."""

    site: str
    scores: Tensor  # broadcasts to [B, h, Q, S]; at a deformable site to [B, h, Q, P]

    def __post_init__(self) -> None:
        if not self.scores.is_floating_point():
            raise UserError(f"Bias: scores: expected floating-point numbers, found {self.scores.dtype}")
        _refuse_nan("Bias: scores", self.scores)

    def describe(self) -> str:
        """Return the edit in words, for captions."""
        hidden = int((self.scores == float("-inf")).sum())
        note = f", hiding {hidden} of {self.scores.numel()}" if hidden else ""
        return f"bias at {self.site}{note}"


@check_field_arguments
@dataclass(frozen=True)
class Gain:
    """Factor on the weights after the softmax: mutes (0) or scales heads, queries, keys... Nothing is renormalised.

    Selections combine: the weights of these heads, for these queries, at these keys. None selects all.

    Attributes:
        site: name or pattern of the attention sites.
        factor: what the weights are multiplied by.
        heads: head indices.
        queries: rows of the attention map.
        keys: columns of the attention map; at a deformable site, of its exact dense map.
        points: sampling points of a deformable site, 0 to P - 1.
        levels: feature maps, where keys are image tokens.
    """

    site: str
    factor: float = 0.0
    heads: tuple[int, ...] | None = None
    queries: tuple[int, ...] | None = None
    keys: tuple[int, ...] | None = None
    points: tuple[int, ...] | None = None
    levels: tuple[int, ...] | None = None

    def describe(self) -> str:
        """Return the edit in words, for captions."""
        selections = {
            "head": self.heads,
            "query": self.queries,
            "key": self.keys,
            "point": self.points,
            "level": self.levels,
        }
        where = "".join(f", {_numbers(name, ids)}" for name, ids in selections.items() if ids is not None)
        return f"gain {self.factor:g} at {self.site}{where}"


@check_field_arguments
@dataclass(frozen=True)
class Swap:
    """Replacement of a tensor of a site by one of another trace, after the split into heads.

    A dense site has query, key and value; a deformable one value, points and weights. Weights are replaced after the
    softmax and before gains.
    """

    site: str
    part: Literal["query", "key", "value", "points", "weights"]
    tensor: Tensor  # shape as in the site's record, such as [B, h, S, d] for value

    def __post_init__(self) -> None:
        _refuse_nan("Swap: tensor", self.tensor)

    def describe(self) -> str:
        """Return the edit in words, for captions."""
        return f"{self.part} swapped at {self.site}"


Edit = Bias | Gain | Swap


@dataclass(frozen=True)
class GraphEdit:
    """Factors at one site that are inputs of an exported graph: what `Bias` and `Gain` become there.

    Gains on keys multiply the values and gains on queries the output, which equals a gain on the weights, so that no
    map is formed. An axis of keys or queries may have size 1, which stands for all.
    """

    site: str
    key_gain: Tensor  # [h, S]
    query_gain: Tensor  # [h, Q]
    key_bias: Tensor | None = None  # [h, S] on the scores of softmax attention
    point_gain: Tensor | None = None  # [h, P] on the weights of deformable attention
    point_bias: Tensor | None = None  # [h, P] on its scores

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by field."""
        return {name: x for name, x in vars(self).items() if isinstance(x, Tensor)}


LISTED = 6  # most numbers that are listed


def _refuse_nan(name: str, tensor: Tensor) -> None:
    if bool(torch.isnan(tensor).any()):
        raise UserError(f"{name}: expected numbers, found NaN among them")


def _numbers(name: str, ids: tuple[int, ...]) -> str:
    """Return such as `head 3`, or `24 keys`."""
    if len(ids) == 1:
        return f"{name} {ids[0]}"
    plural = "queries" if name == "query" else f"{name}s"
    return f"{plural} {', '.join(map(str, ids))}" if len(ids) <= LISTED else f"{len(ids)} {plural}"
