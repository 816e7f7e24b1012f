"""Every layer, head and query of a trace measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from detrscope.core.records import to_float32
from detrscope.core.trace_data import Kind, TraceData
from detrscope.lens.attention_product import BLOCK
from detrscope.lens.metrics import agreement, entropy, mass_in, mean_distance, points_into
from detrscope.lens.token_coverage import centres_of, cover_of_boxes, cover_of_masks

TOKENS = 1024  # of a large encoder, so many are measured, evenly chosen


@dataclass(frozen=True)
class Measure:
    """One head of one layer: of one query, or the mean over many rows. None is what has no meaning there.

    Attributes:
        kind: encoder.self, decoder.self or decoder.cross.
        layer: from 0.
        head: its number; None is the mean over heads.
        query: of the decoder; None is the mean over all rows measured.
        rows: how many rows were measured.
        keys: how many tokens (or queries) there are to look at.
        mass: the sum of a row.
        entropy: nats.
        effective: tokens (or queries) looked at, exp(entropy).
        distance_px: mean distance of what is looked at, pixels of the original, from the token's or the box's middle.
        distance: the same as a part of the image's diagonal.
        in_box: mass inside the query's predicted box (last layer); in the encoder, that tokens inside a found box
            keep inside of it.
        box_area: the mass that attention alike on all tokens would have there.
        pointing: part of the rows whose greatest weight lies in that box.
        agreement: between heads, 0..1, where head is None.
        parts: mass on each mask that was given.
        part_areas: the mass that attention alike on all tokens would have there.
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
        """Plain columns, those of the masks as `on NAME` and `area NAME`."""
        plain = {k: v for k, v in vars(self).items() if not k.startswith("part")}
        on = {f"on {name}": value for name, value in self.parts.items()}
        return {**plain, **on, **{f"area {name}": value for name, value in self.part_areas.items()}}


def measure(
    trace: TraceData,
    queries: Sequence[int] | None = None,
    *,
    threshold: float = 0.5,
    masks: Mapping[str, Tensor] | None = None,
    tokens: int = TOKENS,
) -> list[Measure]:
    """Measures of every recorded site: per head, and in the decoder per query too.

    Args:
        trace: with at least one record.
        queries: of the decoder; None is those found with a score of at least `threshold`, or the best one.
        threshold: of a detection, also for the boxes that the encoder is measured with.
        masks: bool [height, width] of the original by name, such as the parts of a dog; None is those of the trace's
            regions, where it has them.
        tokens: how many of the encoder's tokens are measured at most, evenly chosen.

    Returns:
        For each site in the order of the path: of each query, then of all (query None), each head and then the mean
        over heads (head None).

    Raises:
        UserError: no such query, or a mask of another size.
    """
    found = trace.detections(threshold).query_ids.unique().tolist()
    found = found or [int(trace.scores().amax(-1).argmax())]
    asked = found if queries is None else [trace.check_query(q) for q in queries]
    if masks is None:
        masks = {} if trace.regions is None else trace.regions.masks()
    covers = {
        name: cover_of_masks(mask[None], trace.geometry, trace.levels)[0] for name, mask in masks.items()
    }
    some_tokens = _tokens(trace, found, tokens)
    lookers: dict[Kind, _Lookers] = {
        "encoder.self": some_tokens,
        "decoder.self": _among_queries(trace, asked),
        "decoder.cross": _queries(trace, asked),
    }
    measures: list[Measure] = []
    for kind, who in lookers.items():
        for layer in range(trace.layers(kind)):
            site = trace.site(kind, layer)
            if site in trace.records:
                seen = _seen(trace, site, who, covers if kind != "decoder.self" else {})
                measures += _lines(seen, kind, layer, asked if kind != "encoder.self" else [])
    return measures


@dataclass(frozen=True)
class _Lookers:
    """Rows of a site: which, where they are, which box they have."""

    index: Tensor  # [n] of the rows
    start: Tensor  # [n, 2] x, y
    centres: Tensor  # [S, 2] of what they can look at
    boxes_xyxy: Tensor  # [n, 4]
    has_box: Tensor  # [n] bool
    cover: Tensor  # [n, S] of the box
    area: Tensor  # [n] the mass in the box of attention alike on all tokens


@dataclass(frozen=True)
class _Seen:
    """Measures of rows, heads apart."""

    keys: int
    values: dict[str, Tensor]  # [h, n] by name; NaN where there is no meaning
    agreement: Tensor  # [n]
    parts: dict[str, Tensor]  # [h, n] by mask
    part_areas: dict[str, float]


def _tokens(trace: TraceData, queries: Sequence[int], most: int) -> _Lookers:
    """Tokens of the encoder, evenly chosen, each with the first found box that it lies in."""
    centres = centres_of(trace.geometry, trace.levels)
    on_image = _on_image(trace).nonzero()[:, 0]
    chosen = on_image[torch.linspace(0, len(on_image) - 1, min(most, len(on_image))).round().long()]
    boxes = trace.boxes_xyxy()[list(queries)]
    at = centres[chosen]  # [n, 2]
    inside = ((at[:, None] >= boxes[:, :2]) & (at[:, None] <= boxes[:, 2:])).all(-1)  # [n, m]
    own = inside.float().argmax(1)  # [n]
    cover, area = _cover(trace, boxes)
    return _Lookers(chosen, at, centres, boxes[own], inside.any(1), cover[own], area[own])


def _queries(trace: TraceData, queries: Sequence[int]) -> _Lookers:
    """Queries of the decoder that look at the image."""
    boxes = trace.boxes_xyxy()[list(queries)]
    cover, area = _cover(trace, boxes)
    has_box = torch.ones(len(boxes), dtype=torch.bool)
    centres = centres_of(trace.geometry, trace.levels)
    return _Lookers(torch.tensor(queries), _middles(boxes), centres, boxes, has_box, cover, area)


def _among_queries(trace: TraceData, queries: Sequence[int]) -> _Lookers:
    """Queries of the decoder that look at queries; the place of one is the middle of its box."""
    every = trace.boxes_xyxy()
    boxes = every[list(queries)]
    none = torch.zeros(len(boxes), len(every))
    has_box = torch.zeros(len(boxes), dtype=torch.bool)
    return _Lookers(
        torch.tensor(queries), _middles(boxes), _middles(every), boxes, has_box, none, none.sum(1)
    )


def _middles(boxes_xyxy: Tensor) -> Tensor:
    return (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2


def _on_image(trace: TraceData) -> Tensor:
    """[S] bool."""
    return torch.cat([trace.geometry.inside(level).flatten() for level in trace.levels])


def _cover(trace: TraceData, boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """What boxes cover of each cell [m, S], and of the image's tokens on average [m]."""
    cover = cover_of_boxes(boxes_xyxy, trace.geometry, trace.levels)
    return cover, cover[:, _on_image(trace)].mean(-1)


def _seen(trace: TraceData, site: str, who: _Lookers, covers: Mapping[str, Tensor]) -> _Seen:
    """Row block by row block."""
    record = to_float32(trace.record(site))
    diagonal = (trace.geometry.width**2 + trace.geometry.height**2) ** 0.5
    step = max(1, BLOCK // (record.shape[0] * len(who.centres)))
    values: dict[str, list[Tensor]] = {}
    parts: dict[str, list[Tensor]] = {name: [] for name in covers}
    agreements, on_image = [], _on_image(trace)
    for part in torch.arange(len(who.index)).split(step):
        rows = record.rows(who.index[part])[0].float()  # [h, n, S]
        spread = entropy(rows)
        distance = mean_distance(rows, who.start[part], who.centres)
        into = points_into(rows, who.centres, who.boxes_xyxy[part]).float()
        boxed = {
            "in_box": mass_in(rows, who.cover[part]),
            "box_area": who.area[part].expand(len(rows), -1),
            "pointing": into,
        }
        measured = {
            "mass": rows.sum(-1),
            "entropy": spread,
            "effective": spread.exp(),
            "distance_px": distance,
            "distance": distance / diagonal,
            **{name: torch.where(who.has_box[part], value, torch.nan) for name, value in boxed.items()},
        }
        for name, value in measured.items():
            values.setdefault(name, []).append(value)
        for name, cover in covers.items():
            parts[name].append(mass_in(rows, cover))
        agreements.append(agreement(rows))
    return _Seen(
        keys=len(who.centres),
        values={name: torch.cat(blocks, dim=1) for name, blocks in values.items()},
        agreement=torch.cat(agreements),
        parts={name: torch.cat(blocks, dim=1) for name, blocks in parts.items()},
        part_areas={name: float(cover[on_image].mean()) for name, cover in covers.items()},
    )


def _lines(seen: _Seen, kind: Kind, layer: int, queries: Sequence[int]) -> list[Measure]:
    """Each of the queries, if any, and all rows; of each of these every head and their mean."""
    count = len(seen.agreement)
    wanted: list[tuple[int | None, list[int]]] = [(query, [place]) for place, query in enumerate(queries)]
    wanted.append((None, [*range(count)]))
    heads: list[int | None] = [*range(len(seen.values["mass"])), None]
    return [_line(seen, kind, layer, head, query, places) for query, places in wanted for head in heads]


def _line(
    seen: _Seen, kind: Kind, layer: int, head: int | None, query: int | None, places: list[int]
) -> Measure:
    def mean(values: Tensor) -> float:
        return float((values[:, places] if head is None else values[head, places]).nanmean())

    def known(name: str) -> float | None:
        value = mean(seen.values[name])
        return None if math.isnan(value) else value

    return Measure(
        kind=kind,
        layer=layer,
        head=head,
        query=query,
        rows=len(places),
        keys=seen.keys,
        mass=mean(seen.values["mass"]),
        entropy=mean(seen.values["entropy"]),
        effective=mean(seen.values["effective"]),
        distance_px=mean(seen.values["distance_px"]),
        distance=mean(seen.values["distance"]),
        in_box=known("in_box"),
        box_area=known("box_area"),
        pointing=known("pointing"),
        agreement=float(seen.agreement[places].mean()) if head is None else None,
        parts={name: mean(value) for name, value in seen.parts.items()},
        part_areas=seen.part_areas,
    )
