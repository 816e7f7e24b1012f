"""Edits: interventions on attention as data, saved with the trace that they changed."""

from __future__ import annotations

from collections.abc import Sequence
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

    @staticmethod
    def hide(region_xyxy: Sequence[float], site: str = "*") -> KeyBias:
        """Return the edit that hides a part of the image from attention; see `KeyBias`.

        Args:
            region_xyxy: pixels of the original image.
            site: name or pattern of the attention sites; "*" is all whose keys are tokens of the image.
        """
        return KeyBias(site, region_xyxy=_region(region_xyxy))

    @staticmethod
    def favour(region_xyxy: Sequence[float], score: float = 1.0, site: str = "*") -> KeyBias:
        """Return the edit that adds a score to a part of the image; arguments as `hide`."""
        return KeyBias(site, score, region_xyxy=_region(region_xyxy))

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
        """Return the edit as `--edit` takes it, such as `decoder.*.cross: heads 2,3 x0`."""
        return f"{self.site}: {_selected(self)}x{self.factor:.10g}"


@check_field_arguments
@dataclass(frozen=True)
class KeyBias:
    """Bias on the scores of selected keys: hides them or favours them. Their weights are renormalised.

    Selections combine; None selects all. At a deformable site points and levels are hidden or favoured before the
    softmax over the points. Keys and regions there have no scores: the values of these tokens are multiplied by
    exp(score), 0 where hidden, and nothing is renormalised.

    Attributes:
        site: name or pattern of the attention sites.
        score: what is added to the scores; None hides.
        region_xyxy: part of the image in pixels of the original: the tokens whose centre lies in it, at every level,
            or the one at its middle where there is none. Sites whose keys are queries are left as they are.
        keys: columns of the attention map.
        levels: feature maps, where keys are image tokens.
        points: sampling points of a deformable site, 0 to P - 1.
        heads: head indices.
        queries: rows of the attention map.
    """

    site: str
    score: float | None = None
    region_xyxy: tuple[float, float, float, float] | None = None
    keys: tuple[int, ...] | None = None
    levels: tuple[int, ...] | None = None
    points: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    queries: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if all(x is None for x in (self.region_xyxy, self.keys, self.levels, self.points)):
            raise UserError(
                f"KeyBias at '{self.site}': expected a region, keys, levels or points to hide or favour"
            )
        if self.region_xyxy is not None:
            x0, y0, x1, y1 = self.region_xyxy
            if not (x0 < x1 and y0 < y1):
                raise UserError(
                    f"region {_joined(self.region_xyxy)}: expected x0,y0,x1,y1 in pixels with x0 < x1 and y0 < y1"
                )

    def describe(self) -> str:
        """Return the edit as `--edit` takes it, such as `encoder.*.self: hide region 120,80,300,260`."""
        if self.score is None:
            return f"{self.site}: hide {_selected(self).strip()}"
        return f"{self.site}: favour {_selected(self)}{self.score:+.10g}"


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
        if not self.tensor.is_floating_point():
            raise UserError(f"Swap: tensor: expected floating-point numbers, found {self.tensor.dtype}")
        _refuse_nan("Swap: tensor", self.tensor)

    def describe(self) -> str:
        """Return the edit in words, for captions."""
        return f"{self.part} swapped at {self.site}"


Edit = Bias | Gain | KeyBias | Swap
MAX_CAPTION = 90  # characters of an edit in a caption


def caption_edit(edit: Edit) -> str:
    """Return the edit in words, its middle left out where it is long."""
    text, half = edit.describe(), MAX_CAPTION // 2
    return text if len(text) <= MAX_CAPTION else f"{text[:half]} ... {text[-half // 2 :]}"


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


def _refuse_nan(name: str, tensor: Tensor) -> None:
    if bool(torch.isnan(tensor).any()):
        raise UserError(f"{name}: expected numbers, found NaN among them")


SELECTIONS = ("heads", "queries", "keys", "points", "levels")  # in the order in which edits are written


def _selected(edit: Gain | KeyBias) -> str:
    """Return the selections of an edit as `--edit` takes them, such as `heads 2,3 `; empty where all is selected."""
    words = [f"{name} {_ranges(ids)} " for name in SELECTIONS if (ids := getattr(edit, name)) is not None]
    if isinstance(edit, KeyBias) and edit.region_xyxy is not None:
        words.append(f"region {_joined(edit.region_xyxy)} ")
    return "".join(words)


def _ranges(ids: tuple[int, ...]) -> str:
    """Return such as `0-5,9`: runs of three and more consecutive numbers as ranges."""
    runs: list[list[int]] = []
    for number in ids:
        if runs and number == runs[-1][-1] + 1 and runs[-1][0] >= 0:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)


def _joined(numbers: Sequence[float]) -> str:
    return ",".join(f"{x:.10g}" for x in numbers)


def _region(region_xyxy: Sequence[float]) -> tuple[float, float, float, float]:
    """Return four numbers as a region.

    Raises:
        UserError: not four of them.
    """
    if len(region_xyxy) != 4:
        raise UserError(f"region: expected x0, y0, x1, y1, found {len(region_xyxy)} numbers")
    x0, y0, x1, y1 = (float(x) for x in region_xyxy)
    return x0, y0, x1, y1
