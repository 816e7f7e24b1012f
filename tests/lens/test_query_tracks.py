"""Queries are tracked through new indices, crossing paths and noise of made-up objects."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from detrscope.core.geometry import Geometry
from detrscope.core.snapshot import snapshot_record
from detrscope.core.trace_data import TraceData
from detrscope.core.types import Level
from detrscope.lens.query_tracks import query_distance, track_queries
from tests.support.tiny_models import tiny

CELLS = 12


def trace_of(boxes: Tensor, classes: Tensor, order: Tensor) -> TraceData:
    """Objects [n, 4] of these classes, each predicted by a query that attends to its centre; queries in this order."""
    place = (torch.arange(CELLS) + 0.5) / CELLS
    near = torch.exp(-((place - boxes[:, :1]) ** 2 + (place - boxes[:, 1:2]) ** 2) * 40)  # [n, S]
    rows = near / near.sum(1, keepdim=True)
    logits = 6.0 * torch.nn.functional.one_hot(classes, 3) - 3
    return TraceData(
        card=replace(tiny("sprint-dense-n").card, scoring="sigmoid"),
        geometry=Geometry.of_resize(8, 96, (8, 96)),
        image=torch.zeros(3, 8, 96, dtype=torch.uint8),
        logits=logits[order][None],
        boxes_cxcywh=boxes[order][None],
        levels=(Level(1, CELLS),),
        model_sites=("decoder.0.cross",),
        records={"decoder.0.cross": snapshot_record(rows[order])},
    )


def test_objects_are_tracked_although_query_indices_change() -> None:
    generator = torch.Generator().manual_seed(0)
    start, speed = torch.rand(6, 2, generator=generator), torch.randn(6, 2, generator=generator) * 0.01
    classes = torch.randint(0, 3, (6,), generator=generator)
    traces, orders = [], []
    for t in range(20):
        noise = torch.randn(6, 2, generator=generator) * 0.004
        boxes = torch.cat([start + t * speed + noise, torch.full((6, 2), 0.2)], dim=1)
        orders.append(torch.randperm(6, generator=generator))
        traces.append(trace_of(boxes, classes, orders[-1]))
    tracks = track_queries(traces)
    assert tracks.shape == (20, 6)
    assert tracks[-1].tolist() == list(range(6)), "a track has the index of its query in the last trace"
    tracked = torch.stack(
        [order[track] for order, track in zip(orders, tracks, strict=True)]
    )  # [T, n] objects
    assert (tracked == tracked[-1]).all()
    by_index = torch.stack(orders)
    assert (by_index != by_index[-1]).any(1).sum() >= 15, "indices alone would have jumped"


def test_crossing_objects_are_told_apart_by_class() -> None:
    classes = torch.tensor([0, 1])
    traces, orders = [], []
    for t in range(16):
        x = 0.2 + 0.04 * t  # from 0.48 and 0.52 they change places: by their boxes alone they would stay
        boxes = torch.tensor([[x, 0.5, 0.2, 0.2], [1 - x, 0.5, 0.2, 0.2]])
        orders.append(torch.tensor([1, 0] if t % 3 else [0, 1]))
        traces.append(trace_of(boxes, classes, orders[-1]))
    tracked = torch.stack([o[t] for o, t in zip(orders, track_queries(traces), strict=True)])
    assert (tracked == tracked[-1]).all()


def test_one_trace_is_tracked_and_equal_queries_have_no_distance() -> None:
    boxes = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.1, 0.3]])
    trace = trace_of(boxes, torch.tensor([0, 2]), torch.arange(2))
    assert track_queries([trace]).tolist() == [[0, 1]]
    cost = query_distance(trace, trace)
    torch.testing.assert_close(cost.diagonal(), torch.zeros(2), atol=1e-5, rtol=0)
    assert cost[0, 1] > 1 and cost[1, 0] > 1
