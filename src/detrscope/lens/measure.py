"""Metrics of every layer, head and query of a trace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from detrscope.core.records import record_to_float32
from detrscope.core.trace_data import TOKEN_KINDS, Kind, TraceData
from detrscope.core.types import Level
from detrscope.lens.attention_product import BLOCK
from detrscope.lens.metrics import entropy, head_agreement, mass_in, mean_distance, points_into
from detrscope.lens.token_coverage import centres_of_covered_tokens, cover_of_boxes, cover_of_masks

MAX_TOKENS = 1024  # of a large encoder, so many are measured, evenly chosen


@dataclass(frozen=True)
class Measurement:
    """Metrics of one head of one layer: of one query, or the mean over many rows. None has no meaning there.

    Attributes:
        kind: backbone.self, encoder.self, decoder.self or decoder.cross.
        layer: layer index from 0.
        head: head index; None is the mean over heads.
        query: query index; None is the mean over all measured rows.
        rows: number of measured rows.
        keys: number of tokens (or queries) that a row attends to.
        mass: sum of a row.
        entropy: entropy of a row in nats.
        effective: effective number of tokens (or queries) attended to, exp(entropy).
        distance_px: mean attention distance from the token or the centre of the box, in pixels of the original.
        distance: the same relative to the diagonal of the image.
        in_box: mass inside the query's predicted box (last layer); in the encoder, the mass that tokens inside a
            detected box keep inside it.
        box_area: mass that uniform attention would have there.
        pointing: share of the rows whose greatest weight lies in that box.
        agreement: agreement between heads, 0..1, where head is None.
        parts: mass on each given mask.
        part_areas: mass that uniform attention would have there.
    """

    kind: Kind
    layer: int
    head: int | None
    query: int | None
    rows: int
    keys: int
    mass: float
    entropy: float
    effective: float
    distance_px: float
    distance: float
    in_box: float | None = None
    box_area: float | None = None
    pointing: float | None = None
    agreement: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    part_areas: Mapping[str, float] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """Return the cells of a table line, those of the masks as `on NAME` and `area NAME`."""
        plain = {k: v for k, v in vars(self).items() if not k.startswith("part")}
        on = {f"on {name}": value for name, value in self.parts.items()}
        return {**plain, **on, **{f"area {name}": value for name, value in self.part_areas.items()}}


def measure(
    trace: TraceData,
    queries: Sequence[int] | None = None,
    *,
    threshold: float = 0.5,
    masks: Mapping[str, Tensor] | None = None,
    tokens: int = MAX_TOKENS,
) -> list[Measurement]:
    """Measure every recorded site: per head, and in the decoder per query too.

    Args:
        trace: trace with at least one record.
        queries: query indices; None is those of the detections, or the best one.
        threshold: least score of a detection, also for the boxes that the encoder is measured with.
        masks: bool [height, width] of the original by name, such as the parts of a dog; None is those of the trace's
            regions, where it has them.
        tokens: number of encoder tokens that are measured at most, evenly chosen.

    Returns:
        For each site in the order of the path: of each query, then of all (query None), each head and then the mean
        over heads (head None).

    Raises:
        UserError: no such query, or a mask of another size.
    """
    detected = sorted(set(trace.detections(threshold).query_ids.tolist()))
    detected = detected or [int(trace.scores().amax(-1).argmax())]
    chosen = detected if queries is None else [trace.check_query(q) for q in queries]
    if masks is None:
        masks = {} if trace.regions is None else trace.regions.masks()

    @cache
    def covers_on(levels: tuple[Level, ...]) -> dict[str, Tensor]:
        return {name: cover_of_masks(mask[None], trace.geometry, levels)[0] for name, mask in masks.items()}

    @cache
    def rows_of(kind: Kind, levels: tuple[Level, ...]) -> _Rows:
        if kind in TOKEN_KINDS:
            return _encoder_rows(trace, levels, detected, tokens)
        return _query_rows(trace, levels, chosen, kind)

    measurements: list[Measurement] = []
    kinds: tuple[Kind, ...] = (*TOKEN_KINDS, "decoder.self", "decoder.cross")
    for kind in kinds:
        for layer, site in enumerate(trace.sites_of(kind)):
            if site in trace.records:
                levels = trace.levels_at(site)
                covers = {} if kind == "decoder.self" else covers_on(levels)
                values = _measure_site(trace, site, rows_of(kind, levels), covers)
                measurements += _summarise(values, kind, layer, [] if kind in TOKEN_KINDS else chosen)
    return measurements


@dataclass(frozen=True)
class _Rows:
    """Rows of a site: their indices, positions and boxes."""

    index: Tensor  # [n]
    start: Tensor  # [n, 2] x, y
    centres: Tensor  # [S, 2] of the keys
    boxes_xyxy: Tensor  # [n, 4]
    has_box: Tensor  # [n] bool
    cover: Tensor  # [n, S] share of each key that lies in the box
    area: Tensor  # [n] mass that uniform attention would have in the box


@dataclass(frozen=True)
class _SiteValues:
    """Metrics of the rows of a site, heads apart."""

    keys: int
    values: dict[str, Tensor]  # [h, n] by name; NaN where there is no meaning
    agreement: Tensor  # [n]
    parts: dict[str, Tensor]  # [h, n] by mask
    part_areas: dict[str, float]


def _encoder_rows(trace: TraceData, levels: tuple[Level, ...], queries: Sequence[int], most: int) -> _Rows:
    """Return encoder tokens, evenly chosen, each with the first detected box that it lies in."""
    centres = centres_of_covered_tokens(trace.geometry, levels)
    on_image = _on_image(trace, levels).nonzero()[:, 0]
    index = on_image[torch.linspace(0, len(on_image) - 1, min(most, len(on_image))).round().long()]
    boxes = trace.boxes_xyxy()[list(queries)]
    start = centres[index]  # [n, 2]
    inside = ((start[:, None] >= boxes[:, :2]) & (start[:, None] <= boxes[:, 2:])).all(-1)  # [n, m]
    own = inside.float().argmax(1)  # [n]
    cover, area = _cover(trace, levels, boxes)
    return _Rows(index, start, centres, boxes[own], inside.any(1), cover[own], area[own])


def _query_rows(trace: TraceData, levels: tuple[Level, ...], queries: Sequence[int], kind: Kind) -> _Rows:
    """Return decoder queries, at the centres of their boxes; among themselves, they have no mass in a box."""
    every = trace.boxes_xyxy()
    boxes = every[list(queries)]
    has_box = torch.full((len(boxes),), kind == "decoder.cross")
    if kind == "decoder.cross":
        centres = centres_of_covered_tokens(trace.geometry, levels)
        cover, area = _cover(trace, levels, boxes)
    else:
        centres, cover = _centres(every), torch.zeros(len(boxes), len(every))
        area = cover.sum(1)
    return _Rows(torch.tensor(queries), _centres(boxes), centres, boxes, has_box, cover, area)


def _centres(boxes_xyxy: Tensor) -> Tensor:
    return (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2


def _on_image(trace: TraceData, levels: tuple[Level, ...]) -> Tensor:
    """Return which tokens lie on the image: [S] bool."""
    return torch.cat([trace.geometry.inside(level).flatten() for level in levels])


def _cover(trace: TraceData, levels: tuple[Level, ...], boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share of each cell that boxes cover [m, S], and its mean over the image's tokens [m]."""
    cover = cover_of_boxes(boxes_xyxy, trace.geometry, levels)
    return cover, cover[:, _on_image(trace, levels)].mean(-1)


def _measure_site(trace: TraceData, site: str, rows_of: _Rows, covers: Mapping[str, Tensor]) -> _SiteValues:
    """Measure the rows of a site, block by block to bound memory."""
    record = record_to_float32(trace.record(site))
    diagonal = (trace.geometry.width**2 + trace.geometry.height**2) ** 0.5
    step = max(1, BLOCK // (record.shape[0] * len(rows_of.centres)))
    values: dict[str, list[Tensor]] = {}
    parts: dict[str, list[Tensor]] = {name: [] for name in covers}
    agreements, on_image = [], _on_image(trace, trace.levels_at(site))
    for block in torch.split(torch.arange(len(rows_of.index)), step):
        rows = record.rows(rows_of.index[block])[0].float()  # [h, n, S]
        spread = entropy(rows)
        distance = mean_distance(rows, rows_of.start[block], rows_of.centres)
        boxed = {
            "in_box": mass_in(rows, rows_of.cover[block]),
            "box_area": rows_of.area[block].expand(len(rows), -1),
            "pointing": points_into(rows, rows_of.centres, rows_of.boxes_xyxy[block]).float(),
        }
        measured = {
            "mass": rows.sum(-1),
            "entropy": spread,
            "effective": spread.exp(),
            "distance_px": distance,
            "distance": distance / diagonal,
            **{name: torch.where(rows_of.has_box[block], value, torch.nan) for name, value in boxed.items()},
        }
        for name, value in measured.items():
            values.setdefault(name, []).append(value)
        for name, cover in covers.items():
            parts[name].append(mass_in(rows, cover))
        agreements.append(head_agreement(rows))
    return _SiteValues(
        keys=len(rows_of.centres),
        values={name: torch.cat(blocks, dim=1) for name, blocks in values.items()},
        agreement=torch.cat(agreements),
        parts={name: torch.cat(blocks, dim=1) for name, blocks in parts.items()},
        part_areas={name: float(cover[on_image].mean()) for name, cover in covers.items()},
    )


def _summarise(site: _SiteValues, kind: Kind, layer: int, queries: Sequence[int]) -> list[Measurement]:
    """Return the measurements of each query, if any, and of all rows; of each every head and their mean."""
    groups: list[tuple[int | None, list[int]]] = [(query, [i]) for i, query in enumerate(queries)]
    groups.append((None, [*range(len(site.agreement))]))
    heads: list[int | None] = [*range(len(site.values["mass"])), None]
    return [_mean(site, kind, layer, head, query, rows) for query, rows in groups for head in heads]


def _mean(
    site: _SiteValues, kind: Kind, layer: int, head: int | None, query: int | None, rows: list[int]
) -> Measurement:
    """Return the mean over some rows of one head, or of all."""

    def mean(values: Tensor) -> float:
        return float((values[:, rows] if head is None else values[head, rows]).nanmean())

    means: dict[str, Any] = {name: mean(values) for name, values in site.values.items()}
    for name in ("in_box", "box_area", "pointing"):
        means[name] = None if math.isnan(means[name]) else means[name]
    return Measurement(
        kind=kind,
        layer=layer,
        head=head,
        query=query,
        rows=len(rows),
        keys=site.keys,
        agreement=float(site.agreement[rows].mean()) if head is None else None,
        parts={name: mean(value) for name, value in site.parts.items()},
        part_areas=site.part_areas,
        **means,
    )
