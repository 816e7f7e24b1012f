"""Edits at an attention site: checks that an edit fits there, and masks of the heads, queries and keys it selects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from detrscope.core.edits import Bias, Edit, Gain, KeyBias, Swap
from detrscope.core.errors import UserError
from detrscope.core.geometry import Geometry
from detrscope.core.types import Level


def broadcast_edit_scores(edit: Bias, shape: tuple[int, ...]) -> Tensor:
    """Return the scores of a bias with as many axes as `shape`, [B, h, Q, S] at a dense site; new ones have size 1.

    Raises:
        UserError: they do not broadcast to `shape`, the shape of the site's scores.
    """
    own = edit.scores.shape
    aligned = zip(reversed(own), reversed(shape), strict=False)
    if len(own) > len(shape) or any(size not in (1, full) for size, full in aligned):
        raise UserError(f"bias at '{edit.site}': {list(own)} does not broadcast to {list(shape)}")
    return edit.scores.reshape([1] * (len(shape) - len(own)) + [*own])


def resolve_dense_edit(
    edit: Edit, shape: tuple[int, ...], levels: Sequence[Level], geometry: Geometry | None
) -> Edit | None:
    """Return an edit of selected keys as a bias on all of them; other edits as they are.

    Args:
        edit: an edit at a site of softmax attention.
        shape: [B, h, Q, S] of its scores.
        levels: maps whose tokens the keys are; empty where they are queries.
        geometry: of the images, for a region.

    Returns:
        The edit; None for a region where keys are queries.

    Raises:
        UserError: a selection that does not fit the site.
    """
    if not isinstance(edit, KeyBias):
        return edit
    if edit.region_xyxy is not None and not levels:
        return None
    if edit.points is not None:
        raise UserError(f"edit '{edit.describe()}': this site attends to all keys and has no points")
    selections = {1: ("head", edit.heads), 2: ("query", edit.queries), 3: ("key", edit.keys)}
    mask = edit_selection_mask(edit, selections, shape)
    if edit.levels is not None:
        mask = mask & edit_level_mask(edit, levels, shape[3])
    if edit.region_xyxy is not None:
        mask = mask & region_tokens(edit, levels, geometry)
    if edit.score is None and bool(mask.expand(*mask.shape[:3], shape[3]).all(-1).any()):
        raise UserError(
            f"edit '{edit.describe()}': hides every key; to mute the attention, use the factor x0"
        )
    return Bias(edit.site, torch.where(mask, -math.inf if edit.score is None else edit.score, 0.0))


def resolve_deformable_edit(
    edit: Edit,
    shape: tuple[int, ...],
    levels: Sequence[Level],
    point_levels: Sequence[int],
    geometry: Geometry | None,
) -> Edit:
    """Return an edit of selected keys as a gain on tokens or a bias on points; other edits as they are.

    Args:
        edit: an edit at a deformable site.
        shape: [B, h, Q, P] of its scores.
        levels: sizes of the maps.
        point_levels: the level of each of the P points.
        geometry: of the images, for a region.

    Raises:
        UserError: a selection that does not fit the site.
    """
    if not isinstance(edit, KeyBias):
        return edit
    keys = edit.keys
    if edit.region_xyxy is not None:
        tokens = region_tokens(edit, levels, geometry)
        if keys is not None:
            tokens = tokens & _index_mask(edit, "key", keys, len(tokens))
        keys = tuple(tokens.nonzero()[:, 0].tolist())
    if keys is None:
        selections = {1: ("head", edit.heads), 2: ("query", edit.queries), 3: ("point", edit.points)}
        mask = edit_selection_mask(edit, selections, shape)
        if edit.levels is not None:
            mask = mask & _index_mask(edit, "level", edit.levels, len(levels))[list(point_levels)]
        if edit.score is None and bool(mask.expand(*mask.shape[:3], shape[3]).all(-1).any()):
            raise UserError(
                f"edit '{edit.describe()}': hides every point; to mute the attention, use the factor x0"
            )
        return Bias(edit.site, torch.where(mask, -math.inf if edit.score is None else edit.score, 0.0))
    factor = 0.0 if edit.score is None else math.exp(edit.score)
    return Gain(edit.site, factor, edit.heads, edit.queries, keys, edit.points, edit.levels)


def region_tokens(edit: KeyBias, levels: Sequence[Level], geometry: Geometry | None) -> Tensor:
    """Return which tokens a region selects: [S] bool. Those whose centre lies in it, else the nearest one of a level.

    Raises:
        UserError: the region lies outside the image, or it is not known which image it is of.
    """
    if geometry is None:
        raise UserError(
            f"edit '{edit.describe()}': a region is of one image; it has no meaning for a batch or data set"
        )
    assert edit.region_xyxy is not None
    left, top, right, bottom = geometry.crop_xyxy
    x0, y0, x1, y1 = edit.region_xyxy
    if x1 <= left or x0 >= right or y1 <= top or y0 >= bottom:
        raise UserError(
            f"edit '{edit.describe()}': the region lies outside of the image: x {left:g} to {right:g}, y {top:g} to"
            f" {bottom:g}"
        )
    masks = []
    for level in levels:
        centres = geometry.centres(level)  # [H*W, 2]
        x, y = centres.unbind(1)
        inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1) & geometry.inside(level).flatten()
        if not bool(inside.any()):
            middle = ((max(x0, left) + min(x1, right)) / 2, (max(y0, top) + min(y1, bottom)) / 2)
            inside[geometry.token_at(*middle, level)] = True
        masks.append(inside)
    return torch.cat(masks)


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
    edit: Gain | KeyBias, selections: Mapping[int, tuple[str, tuple[int, ...] | None]], shape: tuple[int, ...]
) -> Tensor:
    """Return a mask that is True where all selections of an edit hold; of size 1 along axes without a selection.

    Args:
        edit: the edit, for messages.
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


def edit_level_mask(edit: Gain | KeyBias, levels: Sequence[Level], tokens: int) -> Tensor:
    """Return a mask [S] of the tokens in the levels that an edit selects.

    Raises:
        UserError: the keys of this site are not the tokens of the maps, or there is no such level.
    """
    ends = [0, *accumulate(h * w for h, w in levels)]
    if ends[-1] != tokens or not levels:
        raise UserError(
            f"edit '{edit.describe()}': it selects levels, but the {tokens} keys there are not tokens of the feature"
            " maps"
        )
    assert edit.levels is not None
    selected = _index_mask(edit, "level", edit.levels, len(levels))
    return selected.repeat_interleave(torch.tensor([level.tokens for level in levels]))


def _index_mask(edit: Gain | KeyBias, name: str, indices: tuple[int, ...], size: int) -> Tensor:
    wrong = [i for i in indices if not -size <= i < size]
    if wrong:
        raise UserError(f"edit '{edit.describe()}': {name} {wrong[0]} is outside 0..{size - 1}")
    mask = torch.zeros(size, dtype=torch.bool)
    mask[list(indices)] = True
    return mask


def edit_has_query_keys(site: str) -> bool:
    """Return whether the keys of a site are queries rather than tokens of the feature maps."""
    return site.startswith("decoder.") and site.endswith(".self")


def pad_factor(factor: Tensor, extra: int, value: float) -> Tensor:
    """Append `extra` neutral values to the last two axes of a factor [..., Q, S], where they do not stand for all."""
    if extra == 0:
        return factor
    rows, columns = (extra * (size > 1) for size in factor.shape[-2:])
    return F.pad(factor, (0, columns, 0, rows), value=value)
