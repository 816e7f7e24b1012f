"""Edits at an attention site: checks that an edit fits there, and masks of the heads, queries and keys it selects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from detrscope.core.edits import Bias, Gain, Swap
from detrscope.core.errors import UserError
from detrscope.core.types import Level


def broadcast_edit_scores(edit: Bias, shape: tuple[int, ...]) -> Tensor:
    """Return the scores of a bias, with four axes.

    Raises:
        UserError: they do not broadcast to `shape`, the shape of the site's scores.
    """
    own = edit.scores.shape
    aligned = zip(reversed(own), reversed(shape), strict=False)
    if len(own) > len(shape) or any(size not in (1, full) for size, full in aligned):
        raise UserError(f"bias at '{edit.site}': {list(own)} does not broadcast to {list(shape)}")
    return edit.scores.reshape([1] * (len(shape) - len(own)) + [*own])


def apply_swap_edit(edit: Swap, parts: Mapping[str, Tensor]) -> Tensor:
    """Return the tensor of a swap in the type and on the device of the part that it replaces.

    Raises:
        UserError: the site has no such part, or it has another shape.
    """
    if edit.part not in parts:
        raise UserError(f"swap at '{edit.site}': no {edit.part} there; valid: {', '.join(sorted(parts))}")
    old = parts[edit.part]
    if edit.tensor.shape != old.shape:
        found, expected = list(edit.tensor.shape), list(old.shape)
        raise UserError(f"swap of the {edit.part} at '{edit.site}': expected {expected}, found {found}")
    return edit.tensor.to(old)


def edit_selection_mask(
    edit: Gain, selections: Mapping[int, tuple[str, tuple[int, ...] | None]], shape: tuple[int, ...]
) -> Tensor:
    """Return a mask that is True where all selections of a gain hold; of size 1 along axes without a selection.

    Args:
        edit: the gain, for messages.
        selections: axis -> its name and the selected indices; None selects all.
        shape: of the site's weights.

    Raises:
        UserError: an index out of range.
    """
    mask = torch.ones([1] * len(shape), dtype=torch.bool)
    for axis, (name, indices) in selections.items():
        if indices is not None:
            along = _index_mask(edit, name, indices, shape[axis])
            mask = mask & along.view([-1 if a == axis else 1 for a in range(len(shape))])
    return mask


def edit_level_mask(edit: Gain, levels: Sequence[Level], tokens: int) -> Tensor:
    """Return a mask [S] of the tokens in the levels that a gain selects.

    Raises:
        UserError: the keys of this site are not the tokens of the maps, or there is no such level.
    """
    ends = [0, *accumulate(h * w for h, w in levels)]
    if ends[-1] != tokens or not levels:
        raise UserError(
            f"gain at '{edit.site}': it selects levels, but the {tokens} keys there are not tokens of the feature maps"
        )
    assert edit.levels is not None
    selected = _index_mask(edit, "level", edit.levels, len(levels))
    return selected.repeat_interleave(torch.tensor([level.tokens for level in levels]))


def _index_mask(edit: Gain, name: str, indices: tuple[int, ...], size: int) -> Tensor:
    wrong = [i for i in indices if not -size <= i < size]
    if wrong:
        raise UserError(f"gain at '{edit.site}': {name} {wrong[0]} is outside 0..{size - 1}")
    mask = torch.zeros(size, dtype=torch.bool)
    mask[list(indices)] = True
    return mask


def edit_has_query_keys(site: str) -> bool:
    """Return whether the keys of a site are queries rather than tokens of the feature maps."""
    return site.startswith("decoder.") and site.endswith(".self")
