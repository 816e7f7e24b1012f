"""What is kept of probe images while a model learns: of every look only what moves, for films of attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from detrscope.core.model_card import Scoring
from detrscope.core.postprocess import class_scores
from detrscope.core.records import DeformableRecord, DenseRecord, Record
from detrscope.core.trace_data import TraceData
from detrscope.core.types import Level

CROSS = "decoder.*.cross"  # the sites that are kept


@dataclass(frozen=True, eq=False)
class DenseRows:
    """Rows of dense attention, mean over heads."""

    weights: Tensor  # [n, S] float16
    everyone: Tensor  # [S] float16, mean over heads and over all Q queries

    def rows(self) -> Tensor:
        """Attention of the kept queries over all tokens, mean over heads: [n, S] float32."""
        return self.weights.float()


@dataclass(frozen=True, eq=False)
class SampledPoints:
    """Sampling points of deformable attention, every head."""

    points: Tensor  # [h, n, P, 2] float16 x, y, 0..1 of the point's own map with its padding
    weights: Tensor  # [h, n, P] float16
    everyone: Tensor  # [S] float16, mean over heads and over all Q queries
    point_levels: tuple[int, ...]
    levels: tuple[Level, ...]

    def rows(self) -> Tensor:
        """The points splatted on all tokens, mean over heads: [n, S] float32."""
        return _splatted(self.points.float(), self.weights.float(), self.point_levels, self.levels).mean(0)


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """Some channels of a convolution of the backbone, and the root mean square over all of them.

    Attributes:
        channels: which ones; the first map is not a channel but the root mean square.
        maps: [1 + c, H, W] uint8, from `low` at 0 to `high` at 255, at most `SIDE` cells a side.
        low: [1 + c] float32.
        high: [1 + c] float32.
        size: of the map as the network has it.
    """

    channels: tuple[int, ...]
    maps: Tensor
    low: Tensor
    high: Tensor
    size: Level

    def values(self) -> Tensor:
        """The maps as numbers: [1 + c, H, W] float32."""
        part = self.maps.float() / 255
        return self.low[:, None, None] + part * (self.high - self.low)[:, None, None]


SIDE = 64  # cells of a kept feature map; a larger one is averaged down


@dataclass(frozen=True, eq=False)
class ProbeSnapshot:
    """One probe image at one moment of training: a trace cut down to what a film needs.

    Attributes:
        query_ids: [n] int64, the queries that are kept, in their order.
        logits: [N, n, K] float16, the last decoder layer at -1.
        boxes_cxcywh: [N, n, 4] float32, 0..1 of the image.
        attention: cross-attention of each decoder layer.
        features: maps of convolutions by site, where asked for.
    """

    query_ids: Tensor
    logits: Tensor
    boxes_cxcywh: Tensor
    attention: tuple[DenseRows | SampledPoints, ...]
    features: Mapping[str, FeatureMaps] = field(default_factory=dict)

    @classmethod
    def of_trace(
        cls, trace: TraceData, query_ids: Tensor, channels: Mapping[str, Sequence[int]]
    ) -> ProbeSnapshot:
        """Cut a trace down.

        Args:
            trace: with the records of the decoder's cross-attention.
            query_ids: [n] which queries to keep.
            channels: of each feature map of the trace, which channels to keep.
        """
        layers = [record for site, record in trace.records.items() if fnmatchcase(site, CROSS)]
        return cls(
            query_ids=query_ids,
            logits=trace.logits[:, query_ids].half(),
            boxes_cxcywh=trace.boxes_cxcywh[:, query_ids],
            attention=tuple(_kept(record, query_ids) for record in layers),
            features={site: compress_features(maps, channels[site]) for site, maps in trace.features.items()},
        )

    def boxes(self, layer: int = -1) -> Tensor:
        """What the kept queries predict in a decoder layer: boxes_cxcywh [n, 4]."""
        return self.boxes_cxcywh[self._predicted(layer)]

    def scores(self, scoring: Scoring, layer: int = -1) -> Tensor:
        """Their score for every class: [n, classes] float32."""
        return class_scores(self.logits[self._predicted(layer)], scoring)

    def _predicted(self, layer: int) -> int:
        return layer if len(self.logits) > 1 else -1  # some models predict in the last layer only

    def rows(self, layer: int = -1) -> Tensor:
        """Attention of the kept queries over all tokens in a decoder layer, mean over heads: [n, S] float32."""
        return self.attention[layer].rows()

    def everyone(self, layer: int = -1) -> Tensor:
        """The mean over heads and all queries of the model, kept or not: [S] float32."""
        return self.attention[layer].everyone.float()


@dataclass(frozen=True, eq=False)
class SnapshotStep:
    """All probe images at one moment of training."""

    step: int  # optimiser steps taken
    epoch: float  # the same in epochs
    looks: Mapping[str, ProbeSnapshot]  # by the name of the image


@dataclass(frozen=True, eq=False)
class Recording:
    """A training that was watched: what its films are made of.

    Attributes:
        name: of the run.
        images: the first look at each probe image, by its name: picture, geometry, truth, model. It has no records.
        moments: all looks, in the order of training.
        metrics: rows of the run's metrics.jsonl, one an epoch.
        attention: rows of the run's attention.jsonl, one a look; empty where no truth is known.
    """

    name: str
    images: Mapping[str, TraceData]
    moments: Sequence[SnapshotStep]
    metrics: Sequence[Mapping[str, float | None]]
    attention: Sequence[Mapping[str, float | None]]

    def looks(self, name: str) -> list[ProbeSnapshot]:
        """All looks at an image, in order."""
        return [moment.looks[name] for moment in self.moments]


def compress_features(maps: Tensor, channels: Sequence[int]) -> FeatureMaps:
    """Features [C, H, W] made small: the root mean square over C, then some channels, 256 steps from low to high."""
    maps = maps.float()
    size = Level(*maps.shape[-2:])
    chosen = torch.cat([maps.square().mean(0, keepdim=True).sqrt(), maps[list(channels)]])  # [1 + c, H, W]
    if max(size) > SIDE:
        height, width = (max(1, round(side * SIDE / max(size))) for side in size)
        chosen = torch.nn.functional.adaptive_avg_pool2d(chosen[None], (height, width))[0]
    low, high = chosen.flatten(1).amin(1), chosen.flatten(1).amax(1)
    part = (chosen - low[:, None, None]) / (high - low).clamp(min=1e-12)[:, None, None]
    return FeatureMaps(tuple(channels), (part * 255).round().to(torch.uint8), low, high, size)


def _kept(record: Record, query_ids: Tensor) -> DenseRows | SampledPoints:
    if isinstance(record, DenseRecord):
        rows = record.rows()[0].float().mean(0)  # [Q, S]
        return DenseRows(rows[query_ids].half(), rows.mean(0).half())
    points, weights = record.points[0].float(), record.weights[0].float()  # [h, Q, P, 2], [h, Q, P]
    heads, queries = weights.shape[:2]
    one = (points.reshape(1, 1, -1, 2), weights.reshape(1, 1, -1) / (heads * queries))  # as if of one query
    everyone = _splatted(*one, record.point_levels * (heads * queries), record.levels)[0, 0]
    return SampledPoints(
        points[:, query_ids].half(),
        weights[:, query_ids].half(),
        everyone.half(),
        record.point_levels,
        record.levels,
    )


def _splatted(
    points: Tensor, weights: Tensor, point_levels: Sequence[int], levels: tuple[Level, ...]
) -> Tensor:
    """Points [h, n, P, 2] and weights [h, n, P] as rows over all tokens [h, n, S], as their record has it."""
    record = DeformableRecord(
        points[None], weights[None], None, tuple(point_levels), levels, points.new_zeros(1, 1, 1, 2)
    )
    return record.rows()[0]
