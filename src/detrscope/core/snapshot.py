"""Snapshots of probe images during training: traces reduced to what a film of attention needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from detrscope.core.records import DenseRecord, Record
from detrscope.core.trace_data import TraceData
from detrscope.core.types import Level

CROSS = "decoder.*.cross"  # the sites whose attention is stored
SIDE = 64  # cells of a stored feature map along a side; a larger map is averaged down
HALF_MAX = torch.finfo(torch.float16).max


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """Some channels of a convolution of the backbone, and the root mean square over all of them.

    Attributes:
        channels: indices of the stored channels.
        maps: [1 + c, H, W] uint8, from `low` at 0 to `high` at 255, at most `SIDE` cells a side: the root mean square
            over all channels, then the stored channels.
        low: [1 + c] float32.
        high: [1 + c] float32.
        size: size of the map in the network.
    """

    channels: tuple[int, ...]
    maps: Tensor
    low: Tensor
    high: Tensor
    size: Level

    @classmethod
    def of(cls, maps: Tensor, channels: Sequence[int]) -> FeatureMaps:
        """Return feature maps [C, H, W] reduced to some channels in 8 bits."""
        maps = maps.float()
        size = Level(*maps.shape[-2:])
        rms = maps.square().mean(0, keepdim=True).sqrt()
        chosen = torch.cat([rms, maps[list(channels)]])  # [1 + c, H, W]
        if max(size) > SIDE:
            height, width = (max(1, round(side * SIDE / max(size))) for side in size)
            chosen = torch.nn.functional.adaptive_avg_pool2d(chosen[None], (height, width))[0]
        low, high = chosen.flatten(1).amin(1), chosen.flatten(1).amax(1)
        part = (chosen - low[:, None, None]) / (high - low).clamp(min=1e-12)[:, None, None]
        return cls(tuple(channels), (part * 255).round().to(torch.uint8), low, high, size)

    def values(self) -> Tensor:
        """Return the maps as numbers: [1 + c, H, W] float32."""
        part = self.maps.float() / 255
        return self.low[:, None, None] + part * (self.high - self.low)[:, None, None]


@dataclass(frozen=True, eq=False)
class ProbeSnapshot:
    """One probe image at one step of training: the part of its trace that changes, for some of the queries.

    Attributes:
        query_ids: [n] int64, index in the model of each stored query, ascending.
        logits: [N, n, K] float16, the last decoder layer at -1.
        boxes_cxcywh: [N, n, 4] float32, 0..1 of the image.
        records: cross-attention of the stored queries by site, in float16 and without values: of dense attention the
            mean over heads, of deformable attention the sampling points of every head.
        mean_rows: [S] float16 by site, the mean over heads and over all Q queries of the model.
        features: feature maps by site, where they are recorded.
    """

    query_ids: Tensor
    logits: Tensor
    boxes_cxcywh: Tensor
    records: Mapping[str, Record]
    mean_rows: Mapping[str, Tensor]
    features: Mapping[str, FeatureMaps] = field(default_factory=dict)

    @classmethod
    def of_trace(
        cls, trace: TraceData, query_ids: Tensor, channels: Mapping[str, Sequence[int]]
    ) -> ProbeSnapshot:
        """Return a trace reduced to some queries.

        Args:
            trace: a trace with the records of the decoder's cross-attention, without edits.
            query_ids: [n] indices of the queries to store.
            channels: by site, the channels to store of each feature map of the trace.
        """
        reduced = {
            site: _reduced(record, query_ids)
            for site, record in trace.records.items()
            if fnmatchcase(site, CROSS)
        }
        return cls(
            query_ids=query_ids,
            logits=trace.logits[:, query_ids].half(),
            boxes_cxcywh=trace.boxes_cxcywh[:, query_ids],
            records={site: record for site, (record, _) in reduced.items()},
            mean_rows={site: mean for site, (_, mean) in reduced.items()},
            features={site: FeatureMaps.of(maps, channels[site]) for site, maps in trace.features.items()},
        )

    def trace(self, image: TraceData) -> TraceData:
        """Return the snapshot as a trace whose queries are the stored ones: query i is `query_ids[i]` of the model.

        Args:
            image: a trace of the same image by the same model, for all that does not change.
        """
        return replace(
            image, logits=self.logits.float(), boxes_cxcywh=self.boxes_cxcywh, records=self.records
        )


@dataclass(frozen=True, eq=False)
class SnapshotStep:
    """The snapshots of all probe images at one step of training."""

    step: int  # optimiser steps taken
    epoch: float  # the same in epochs
    snapshots: Mapping[str, ProbeSnapshot]  # by name of the image


@dataclass(frozen=True, eq=False)
class Recording:
    """All snapshots of a run with its metrics.

    Attributes:
        name: name of the run.
        images: by name of the image, its trace without records: pixels, geometry, ground truth, model.
        steps: snapshots in the order of training.
        metrics: rows of the run's metrics.jsonl, one an epoch.
        attention: rows of the run's attention.jsonl, one a step of `steps`; empty without ground truth.
    """

    name: str
    images: Mapping[str, TraceData]
    steps: Sequence[SnapshotStep]
    metrics: Sequence[Mapping[str, float | None]]
    attention: Sequence[Mapping[str, float | None]]

    def snapshots(self, image: str) -> list[ProbeSnapshot]:
        """Return all snapshots of an image, in the order of training."""
        return [step.snapshots[image] for step in self.steps]

    def traces(self, image: str) -> list[TraceData]:
        """Return all snapshots of an image as traces of the stored queries, in the order of training."""
        return [snapshot.trace(self.images[image]) for snapshot in self.snapshots(image)]


def snapshot_prediction_layer(trace: TraceData, layer: int) -> int:
    """Return the index in `logits` of a decoder layer; -1 where only the last layer predicts."""
    return layer if len(trace.logits) > 1 else -1


def snapshot_record(rows: Tensor) -> DenseRecord:
    """Return a record of one head whose rows are given: [n, S].

    With keys of no channels the softmax is 1 / S everywhere; the gain after it, S * rows, makes the rows. In float16
    it has the precision of the rows themselves.
    """
    count, tokens = rows.shape
    gain = (rows.float() * tokens).clamp(max=HALF_MAX).half()
    query, key = torch.zeros(1, 1, count, 0), torch.zeros(1, 1, tokens, 0)
    return DenseRecord(query, key, None, 1.0, gain=gain[None, None])


def _reduced(record: Record, query_ids: Tensor) -> tuple[Record, Tensor]:
    """Return the record of some queries in float16, and the mean row over heads and all queries: [S] float16."""
    if isinstance(record, DenseRecord):
        rows = record.rows()[0].float().mean(0)  # [Q, S]
        return snapshot_record(rows[query_ids]), rows.mean(0).half()
    tokens, weights = (entries.flatten() for entries in record.footprint())  # [h * Q * 4P]
    heads, queries, count = record.shape
    total = weights.new_zeros(count).scatter_add_(
        0, tokens, weights
    )  # without the [h, Q, S] of `record.rows()`
    few = replace(
        record,
        points=record.points[:, :, query_ids].half(),
        weights=record.weights[:, :, query_ids].half(),
        reference=record.reference[:, query_ids],
        value=None,
    )
    return few, (total / (heads * queries)).half()
