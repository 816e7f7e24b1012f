"""What an edit means at a site: whether it fits there, and which heads, queries, keys... it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from detrscope.core.edits import Bias, Gain, Swap
from detrscope.core.errors import UserError
from detrscope.core.types import Level


def broadcast_scores(edit: Bias, shape: tuple[int, ...]) -> Tensor:
    """The scores of a bias.

    Raises:
        UserError: they do not broadcast to the shape of the site's scores.
    """
    try:
        fits = torch.broadcast_shapes(edit.scores.shape, shape) == torch.Size(shape)
    except RuntimeError:
        fits = False
    if not fits:
        found = list(edit.scores.shape)
        raise UserError(f"bias at '{edit.site}': {found} does not broadcast to {list(shape)}")
    return edit.scores


def swapped(edit: Swap, parts: Mapping[str, Tensor]) -> Tensor:
    """The tensor that a swap puts in place of one of the site's parts, in that one's type and on its device.

    Raises:
        UserError: the site has no such part, or it has another shape.
    """
    if edit.what not in parts:
        raise UserError(f"swap at '{edit.site}': no {edit.what} there; valid: {', '.join(sorted(parts))}")
    old = parts[edit.what]
    if edit.tensor.shape != old.shape:
        found, expected = list(edit.tensor.shape), list(old.shape)
        raise UserError(f"swap of the {edit.what} at '{edit.site}': expected {expected}, found {found}")
    return edit.tensor.to(old)


def crossing(
    edit: Gain, named: Mapping[int, tuple[str, tuple[int, ...] | None]], shape: tuple[int, ...]
) -> Tensor:
    """True where all that a gain names cross; of size 1 along axes where it names nothing.

    Args:
        edit: for the message.
        named: axis -> what lies along it, and which of them; None is all.
        shape: of the site's weights.

    Raises:
        UserError: an index that the axis does not have.
    """
    chosen = torch.ones([1] * len(shape), dtype=torch.bool)
    for axis, (name, indices) in named.items():
        if indices is not None:
            along = _along(edit, name, indices, shape[axis])
            chosen = chosen & along.view([-1 if a == axis else 1 for a in range(len(shape))])
    return chosen


def _along(edit: Gain, name: str, indices: tuple[int, ...], size: int) -> Tensor:
    wrong = [i for i in indices if not -size <= i < size]
    if wrong:
        raise UserError(f"gain at '{edit.site}': {name} {wrong[0]} is outside 0..{size - 1}")
    along = torch.zeros(size, dtype=torch.bool)
    along[list(indices)] = True
    return along


def in_levels(edit: Gain, levels: Sequence[Level], tokens: int) -> Tensor:
    """Which of the tokens [S] lie in the levels that a gain names.

    Raises:
        UserError: the keys of this site are not the tokens of the maps, or there is no such level.
    """
    ends = [0, *accumulate(h * w for h, w in levels)]
    if ends[-1] != tokens or not levels:
        raise UserError(
            f"gain at '{edit.site}': levels are named and the {tokens} keys there are not the tokens of the maps"
        )
    assert edit.levels is not None
    chosen = _along(edit, "level", edit.levels, len(levels))
    return torch.cat(
        [one.expand(end - start) for one, start, end in zip(chosen, ends, ends[1:], strict=False)]
    )


def between_queries(site: str) -> bool:
    """Whether the keys of a site are the queries, however many they are, and not tokens of the maps."""
    return site.startswith("decoder.") and site.endswith(".self")
