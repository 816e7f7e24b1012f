"""Drift of attention between two traces of one image: rank correlation and mass in the box, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from detrscope.core.geometry import Geometry
from detrscope.core.records import Record, record_to_float32
from detrscope.core.trace_data import Kind, TraceData
from detrscope.core.types import Level
from detrscope.lens.deletion_curves import rank_correlation
from detrscope.lens.metrics import mass_in
from detrscope.lens.token_coverage import centres_of_covered_tokens, cover_of_boxes


@dataclass(frozen=True)
class AttentionDrift:
    """Drift of the attention of one layer, mean over detections.

    Attributes:
        site: attention site.
        rank_correlation: Spearman's correlation of the maps, mean over heads; 1 where their order is the same.
        in_box: mass of attention in the box of the detection, in the first trace.
        in_box_other: the same in the second trace.
        detections: number of detections.
    """

    site: str
    rank_correlation: float
    in_box: float
    in_box_other: float
    detections: int


def measure_drift(
    trace: TraceData, other: TraceData, pairs: Sequence[tuple[int, int]]
) -> list[AttentionDrift]:
    """Compare cross-attention of queries, and self-attention of the tokens at the centres of their boxes.

    Args:
        trace: the reference.
        other: trace of the same image, with the same sizes of maps.
        pairs: index of a query in each of the traces.

    Returns:
        A row for each site of the encoder's self-attention and the decoder's cross-attention.
    """
    first, second = (torch.tensor([pair[i] for pair in pairs]) for i in (0, 1))
    boxes = trace.boxes_xyxy()[first]  # [n, 4]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    rows = []
    kinds: tuple[Kind, ...] = (trace.token_kind, "decoder.cross")
    for kind, site in [(name, site) for name in kinds for site in trace.sites_of(name)]:
        levels = trace.levels_at(site)
        cover = cover_of_boxes(boxes, trace.geometry, levels)  # [n, S]
        tokens = _tokens_at(trace.geometry, levels, centres)
        indices = (first, second) if kind == "decoder.cross" else (tokens, tokens)
        maps = [_map(t.record(site), index) for t, index in zip((trace, other), indices, strict=True)]
        before, after = (float(mass_in(m, cover).mean()) for m in maps)
        correlation = fmean(rank_correlation(a, b) for a, b in zip(*maps, strict=True))
        rows.append(AttentionDrift(site, correlation, before, after, len(pairs)))
    return rows


def mean_drift(drifts: Sequence[Sequence[AttentionDrift]]) -> list[AttentionDrift]:
    """Return the mean over images of the drift of each site, every detection counted once."""
    merged = []
    for same_site in zip(*drifts, strict=True):
        counts = [row.detections for row in same_site]
        merged.append(
            AttentionDrift(
                same_site[0].site,
                fmean([row.rank_correlation for row in same_site], counts),
                fmean([row.in_box for row in same_site], counts),
                fmean([row.in_box_other for row in same_site], counts),
                sum(counts),
            )
        )
    return merged


def _map(record: Record, index: Tensor) -> Tensor:
    """Return the mean over heads of some rows: [n, S]."""
    return record_to_float32(record).rows(index)[0].float().mean(0)


def _tokens_at(geometry: Geometry, levels: Sequence[Level], points: Tensor) -> Tensor:
    """Return the token nearest to each point [n, 2] in pixels: [n]."""
    centres = centres_of_covered_tokens(geometry, levels)  # [S, 2]
    return torch.cdist(points.float(), centres.float()).argmin(1)
