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
`shape.NAME` shapes along the path, `proposals.*` the predictions of two-stage families for every token, `masks` those
of models with a mask head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from detrscope.core.edits import GraphEdit
from detrscope.core.probe import Probe
from detrscope.core.records import DeformableRecord, DenseRecord, Record
from detrscope.core.types import Level, Masks, Outputs, Proposals, Windows
from detrscope.ops.edits import (
    edit_has_query_keys,
)

IMAGES = "images"
LEVELS = "levels"
SHAPE = "shape."
PROPOSALS = "proposals."
MASKS = "masks"  # output of models with a mask head
PREDICTIONS = ("logits", "boxes_cxcywh", MASKS)


@dataclass(frozen=True)
class GraphSite:
    """An attention site of an exported graph.

    Attributes:
        site: name of the site.
        heads: h.
        scale: factor on the scores of softmax attention; None for deformable attention.
        point_levels: level of each of the P points of deformable attention; None for softmax attention.
        own_maps: whether its keys are the tokens of other maps than the model's, whose sizes are an output.
        windows: rows and columns of windows of that map, within which tokens attend; None for no windows.
        extra: number of tokens, last of queries and keys, that lie on no map.
    """

    site: str
    heads: int
    scale: float | None
    point_levels: tuple[int, ...] | None
    own_maps: bool = False
    windows: tuple[int, int] | None = None
    extra: int = 0

    @classmethod
    def of_record(cls, site: str, record: Record) -> GraphSite:
        """Return the description of the site that a record was made at."""
        if isinstance(record, DenseRecord):
            w = record.windows
            windows = None if w is None else (w.rows, w.columns)
            own = record.levels is not None
            return cls(site, record.shape[0], record.scale, None, own, windows, record.extra)
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
            None if self.windows is None else Windows(*self.windows),
            self.extra,
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


def edit_inputs(edits: Mapping[str, GraphEdit]) -> dict[str, Tensor]:
    """Return the inputs of the graph by name, from the edit of each site."""
    return {f"{site}.{name}": x for site, edit in edits.items() for name, x in edit.tensors().items()}


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
    """Return the predictions from the outputs of a graph; `any_class` as in `Proposals`."""
    parts = {name.removeprefix(PROPOSALS): x for name, x in tensors.items() if name.startswith(PROPOSALS)}
    proposals = None
    if parts:
        logits, boxes, centres = (parts[name] for name in ("logits", "boxes_cxcywh", "centres"))
        proposals = Proposals(logits, boxes, centres, any_class=any_class)
    masks = Masks(tensors[MASKS]) if MASKS in tensors else None
    return Outputs(tensors["logits"], tensors["boxes_cxcywh"], proposals, masks=masks)
