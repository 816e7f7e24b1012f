"""Edits as inputs of exported graphs: factors and biases of every site; what has no input is refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from detrscope.core.edits import Bias, Edit, Gain, GraphEdit, KeyBias, Swap
from detrscope.core.errors import UserError
from detrscope.core.geometry import Geometry
from detrscope.core.probe import Probe
from detrscope.inference.graph_interface import GraphSite, MapSizes
from detrscope.ops.edits import (
    edit_has_query_keys,
    edit_level_mask,
    edit_selection_mask,
    resolve_deformable_edit,
    resolve_dense_edit,
)


def needs_map_sizes(edits: Iterable[Edit]) -> bool:
    """Return whether the inputs that stand for some edits depend on the number of tokens or queries."""
    return any(
        isinstance(edit, KeyBias)
        or (
            isinstance(edit, Gain)
            and (edit.queries is not None or edit.keys is not None or edit.levels is not None)
        )
        for edit in edits
    )


def graph_edit_of(
    spec: GraphSite,
    edits: Sequence[Edit],
    sizes: MapSizes | None,
    engine: str,
    geometry: Geometry | None = None,
) -> GraphEdit:
    """Return the inputs of one site that stand for some edits.

    Args:
        spec: the site.
        edits: edits at this site, in order.
        sizes: sizes of the maps, where `needs_map_sizes`.
        engine: name of the engine, for messages.
        geometry: of the images, for edits of a region.

    Raises:
        UserError: an edit that exported graphs have no input for, or that does not fit the site.
    """
    result = spec.neutral_edit()
    for given in edits:
        edit = _resolved(spec, given, sizes, geometry) if sizes is not None else given
        match edit:
            case Bias():
                change = _with_bias(spec.neutral_edit(), spec, edit, engine)
                result = _both(result, _with_extra(change, spec.extra))
            case Gain():
                change = _with_gain(spec.neutral_edit(), spec, edit, sizes, engine)
                result = _both(result, _with_extra(change, spec.extra))
            case Swap():
                raise _no_input(engine, spec.site, "a swap of tensors")
    return result


def _both(first: GraphEdit, second: GraphEdit) -> GraphEdit:
    """Return the inputs that stand for two edits of a site: gains multiplied, biases added."""
    other = second.tensors()
    parts: dict[str, Any] = {
        name: x * other[name] if name.endswith("gain") else x + other[name]
        for name, x in first.tensors().items()
    }
    return replace(first, **parts)


def _with_extra(edit: GraphEdit, extra: int) -> GraphEdit:
    """Append neutral values for tokens that lie on no map, where an axis does not stand for all."""
    if extra == 0 or edit.key_bias is None:
        return edit
    key_bias, key_gain, query_gain = (
        F.pad(x, (0, extra * (x.shape[1] > 1)), value=value)
        for x, value in ((edit.key_bias, 0.0), (edit.key_gain, 1.0), (edit.query_gain, 1.0))
    )
    return replace(edit, key_bias=key_bias, key_gain=key_gain, query_gain=query_gain)


def _resolved(spec: GraphSite, edit: Edit, sizes: MapSizes, geometry: Geometry | None) -> Edit | None:
    """Return an edit of selected keys as one of all keys, points or tokens; None where it does not concern the site."""
    queries, keys = sizes.of_site(spec.site)
    if spec.point_levels is not None:
        shape = (1, spec.heads, queries, len(spec.point_levels))
        return resolve_deformable_edit(edit, shape, sizes.levels, spec.point_levels, geometry)
    levels = () if edit_has_query_keys(spec.site) else sizes.levels_at(spec.site)
    return resolve_dense_edit(edit, (1, spec.heads, queries, keys), levels, geometry)


def _no_input(engine: str, site: str, what: str) -> UserError:
    return UserError(
        f"edit at '{site}': {what} is not an input of exported models (engine {engine}); load the checkpoint with"
        " engine='torch'"
    )


def _with_bias(result: GraphEdit, spec: GraphSite, edit: Bias, engine: str) -> GraphEdit:
    scores = edit.scores.float()
    scores = scores.view(*[1] * (4 - scores.dim()), *scores.shape) if scores.dim() <= 4 else scores
    if scores.dim() > 4 or scores.shape[1] not in (1, spec.heads):
        found = list(edit.scores.shape)
        raise UserError(f"bias at '{spec.site}': {found} does not broadcast to [1, {spec.heads}, Q, S]")
    if scores.shape[0] != 1 or scores.shape[2] != 1:
        raise _no_input(engine, spec.site, "a bias that differs between queries")
    scores = scores[0, :, 0].expand(spec.heads, -1)  # [h, S or P]
    if spec.point_levels is None:
        assert result.key_bias is not None
        return replace(result, key_bias=result.key_bias + scores)
    assert result.point_bias is not None
    if scores.shape[1] not in (1, len(spec.point_levels)):
        expected = [1, spec.heads, 1, len(spec.point_levels)]
        raise UserError(f"bias at '{spec.site}': {list(edit.scores.shape)} does not broadcast to {expected}")
    return replace(result, point_bias=result.point_bias + scores)


def _with_gain(
    result: GraphEdit, spec: GraphSite, edit: Gain, sizes: MapSizes | None, engine: str
) -> GraphEdit:
    """Multiply the gain of keys, queries or points; a selection of both queries and keys has no input."""
    dense = spec.point_levels is None
    if dense and edit.points is not None:
        raise UserError(
            f"edit '{edit.describe()}': this site attends to all keys and has no points; select keys or levels"
        )
    queries, keys = sizes.of_site(spec.site) if sizes is not None else (1, 1)
    of_keys = edit.keys is not None or (dense and edit.levels is not None)
    of_points = not dense and (edit.points is not None or edit.levels is not None)
    if (edit.queries is not None) + of_keys + of_points > 1:
        raise _no_input(engine, spec.site, "a gain that selects several of queries, keys and points")
    heads = {0: ("head", edit.heads)}
    if edit.queries is not None:
        mask = edit_selection_mask(edit, heads | {1: ("query", edit.queries)}, (spec.heads, queries))
        return replace(result, query_gain=result.query_gain * torch.where(mask, edit.factor, 1.0))
    if of_points or (not dense and not of_keys):
        assert result.point_gain is not None and spec.point_levels is not None
        mask = edit_selection_mask(
            edit, heads | {1: ("point", edit.points)}, (spec.heads, len(spec.point_levels))
        )
        if edit.levels is not None:
            levels = max(spec.point_levels) + 1
            of_level = edit_selection_mask(edit, {0: ("level", edit.levels)}, (levels,))
            mask = mask & of_level[list(spec.point_levels)]
        return replace(result, point_gain=result.point_gain * torch.where(mask, edit.factor, 1.0))
    mask = edit_selection_mask(edit, heads | {1: ("key", edit.keys)}, (spec.heads, keys))
    if edit.levels is not None:
        mask = mask & edit_level_mask(edit, sizes.levels_at(spec.site) if sizes else (), keys)
    return replace(result, key_gain=result.key_gain * torch.where(mask, edit.factor, 1.0))


def edits_by_site(
    specs: Sequence[GraphSite], probe: Probe, sizes: MapSizes | None, engine: str
) -> dict[str, GraphEdit]:
    """Return the inputs of every site that stand for the edits of a probe.

    Raises:
        UserError: an edit that exported graphs have no input for, or that does not fit its site.
    """
    return {
        spec.site: graph_edit_of(spec, probe.edits_at(spec.site), sizes, engine, probe.geometry)
        for spec in specs
    }
