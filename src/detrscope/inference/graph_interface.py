"""Inputs and outputs of an exported graph beside images and predictions: attention records and edits.

A graph that is exported with attention has, for every attention site, the tensors of its record as outputs and factors
of its scores, weights and values as inputs, all neutral by default:

    SITE.query, SITE.key                     outputs [B, h, Q, d], [B, h, S, d] of softmax attention
    SITE.points, SITE.weights, SITE.reference  outputs of deformable attention: [B, h, Q, P, 2], [B, h, Q, P],
                                             [B, Q, L, 2 or 4]
    SITE.key_bias                            input [h, S]: added to the scores of keys (softmax attention)
    SITE.point_bias, SITE.point_gain         inputs [h, P] on the scores and weights of points (deformable attention)
    SITE.key_gain                            input [h, S]: factor on each head's weights of keys
    SITE.query_gain                          input [h, Q]: factor on each head's weights of a query

An axis of S or Q may have size 1, which stands for all. `levels` [L, 2] are the sizes of the feature maps,
`shape.NAME` shapes along the path, `proposals.*` the predictions of two-stage families for every token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from detrscope.core.edits import Bias, Edit, Gain, GraphEdit, KeyBias, Swap
from detrscope.core.errors import UserError
from detrscope.core.geometry import Geometry
from detrscope.core.probe import Probe
from detrscope.core.records import DeformableRecord, DenseRecord, Record
from detrscope.core.types import Level, Outputs, Proposals
from detrscope.ops.edits import (
    edit_has_query_keys,
    edit_level_mask,
    edit_selection_mask,
    resolve_deformable_edit,
    resolve_dense_edit,
)

IMAGES = "images"
LEVELS = "levels"
SHAPE = "shape."
PROPOSALS = "proposals."
PREDICTIONS = ("logits", "boxes_cxcywh")


@dataclass(frozen=True)
class GraphSite:
    """An attention site of an exported graph.

    Attributes:
        site: name of the site.
        heads: h.
        scale: factor on the scores of softmax attention; None for deformable attention.
        point_levels: level of each of the P points of deformable attention; None for softmax attention.
    """

    site: str
    heads: int
    scale: float | None
    point_levels: tuple[int, ...] | None
    own_maps: bool = False

    @classmethod
    def of_record(cls, site: str, record: Record) -> GraphSite:
        """Return the description of the site that a record was made at."""
        if isinstance(record, DenseRecord):
            return cls(site, record.shape[0], record.scale, None, record.levels is not None)
        return cls(site, record.shape[0], None, record.point_levels)

    def neutral_edit(self) -> GraphEdit:
        """Return the edit that changes nothing: gains of 1, biases of 0, axes of size 1."""
        # Tensors of their own: an exporter would make one input of a tensor that is given twice.
        key_gain, query_gain = torch.ones(self.heads, 1), torch.ones(self.heads, 1)
        if self.point_levels is None:
            return GraphEdit(self.site, key_gain, query_gain, key_bias=torch.zeros(self.heads, 1))
        points = torch.ones(self.heads, len(self.point_levels))
        return GraphEdit(
            self.site, key_gain, query_gain, point_gain=points, point_bias=torch.zeros_like(points)
        )

    def record_parts(self) -> tuple[str, ...]:
        """Return the names of the tensors of a record."""
        return ("query", "key") if self.point_levels is None else ("points", "weights", "reference")

    def record_of(self, tensors: Mapping[str, Tensor], levels: Sequence[Level], edit: GraphEdit) -> Record:
        """Return the record that outputs of the graph and the edit of this site describe."""
        parts = {name: tensors[f"{self.site}.{name}"] for name in self.record_parts()}
        key_gain, query_gain = edit.key_gain, edit.query_gain
        if self.point_levels is not None:
            edited = bool((key_gain != 1).any())
            heads = torch.arange(self.heads).view(1, -1, 1, 1)
            return DeformableRecord(
                parts["points"],
                parts["weights"],
                None,
                self.point_levels,
                tuple(levels),
                parts["reference"],
                key_gain if edited else None,
                heads if edited else None,
            )
        assert self.scale is not None and edit.key_bias is not None
        gain = key_gain[None, :, None, :] * query_gain[None, :, :, None]
        bias = edit.key_bias[None, :, None, :]
        return DenseRecord(
            parts["query"],
            parts["key"],
            None,
            self.scale,
            bias if bool((bias != 0).any()) else None,
            gain if bool((gain != 1).any()) else None,
            levels_of(tensors, f"{self.site}.{LEVELS}") if self.own_maps else None,
        )


@dataclass(frozen=True)
class MapSizes:
    """Sizes that edits need: of the feature maps, of those of some sites, and the number of queries."""

    levels: tuple[Level, ...]
    queries: int
    own: Mapping[str, tuple[Level, ...]] = field(default_factory=dict)

    @classmethod
    def of_outputs(cls, tensors: Mapping[str, Tensor], specs: Sequence[GraphSite]) -> MapSizes:
        """Return the sizes that the outputs of a graph say."""
        own = {spec.site: levels_of(tensors, f"{spec.site}.{LEVELS}") for spec in specs if spec.own_maps}
        return cls(levels_of(tensors), tensors["logits"].shape[2], own)

    def levels_at(self, site: str) -> tuple[Level, ...]:
        """Return the sizes of the maps whose tokens the keys of a site are."""
        return self.own.get(site, self.levels)

    def of_site(self, site: str) -> tuple[int, int]:
        """Return the number of queries and of keys at a site."""
        tokens = sum(level.tokens for level in self.levels_at(site))
        return (
            self.queries if site.startswith("decoder.") else tokens,
            self.queries if edit_has_query_keys(site) else tokens,
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
                result = _with_bias(result, spec, edit, engine)
            case Gain():
                result = _with_gain(result, spec, edit, sizes, engine)
            case Swap():
                raise _no_input(engine, spec.site, "a swap of tensors")
    return result


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
        mask = mask & edit_level_mask(edit, sizes.levels if sizes else (), keys)
    return replace(result, key_gain=result.key_gain * torch.where(mask, edit.factor, 1.0))


def edit_inputs(edits: Mapping[str, GraphEdit]) -> dict[str, Tensor]:
    """Return the inputs of the graph by name, from the edit of each site."""
    return {f"{site}.{name}": x for site, edit in edits.items() for name, x in edit.tensors().items()}


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


def fill_probe(
    probe: Probe, tensors: Mapping[str, Tensor], specs: Sequence[GraphSite], edits: Mapping[str, GraphEdit]
) -> None:
    """Store what the outputs of a graph say in a probe: levels, shapes and the records of the requested sites."""
    probe.levels = levels_of(tensors)
    probe.shapes = {
        name.removeprefix(SHAPE): tuple(x.tolist()) for name, x in tensors.items() if name.startswith(SHAPE)
    }
    for spec in specs:
        if probe.records_site(spec.site):
            probe.keep(spec.site, spec.record_of(tensors, probe.levels, edits[spec.site]))


def levels_of(tensors: Mapping[str, Tensor], name: str = LEVELS) -> tuple[Level, ...]:
    """Return the sizes of the feature maps from the outputs of a graph."""
    return tuple(Level(*size) for size in tensors[name].tolist())


def outputs_of(tensors: Mapping[str, Tensor], any_class: bool) -> Outputs:
    """Return the predictions from the outputs of a graph.

    Args:
        tensors: outputs by name.
        any_class: whether logit 0 of the proposals stands for an object of any class.
    """
    parts = {name.removeprefix(PROPOSALS): x for name, x in tensors.items() if name.startswith(PROPOSALS)}
    proposals = Proposals(**parts, any_class=any_class) if parts else None
    return Outputs(tensors["logits"], tensors["boxes_cxcywh"], proposals)
