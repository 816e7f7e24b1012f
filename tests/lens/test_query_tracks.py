"""Queries are followed through new numbers, crossing paths and noise; the truth is known because it was made."""

from __future__ import annotations

import torch
from torch import Tensor

from detrscope.core.snapshot import DenseRows, ProbeSnapshot
from detrscope.lens.query_tracks import distance, follow

CELLS = 12


def look_at(boxes: Tensor, classes: Tensor, order: Tensor) -> ProbeSnapshot:
    """Objects [n, 4] of these classes, each seen by a query that looks at its middle; queries in this order."""
    place = (torch.arange(CELLS) + 0.5) / CELLS
    near = torch.exp(-((place - boxes[:, :1]) ** 2 + (place - boxes[:, 1:2]) ** 2) * 40)  # [n, S]
    rows = near / near.sum(1, keepdim=True)
    logits = 6.0 * torch.nn.functional.one_hot(classes, 3) - 3
    return ProbeSnapshot(
        query_ids=torch.arange(len(order)),
        logits=logits[order][None].half(),
        boxes_cxcywh=boxes[order][None],
        attention=(DenseRows(rows[order].half(), rows.mean(0).half()),),
    )


def test_objects_are_followed_although_queries_change_their_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    start, speed = torch.rand(6, 2, generator=generator), torch.randn(6, 2, generator=generator) * 0.01
    classes = torch.randint(0, 3, (6,), generator=generator)
    looks, orders = [], []
    for t in range(20):
        noise = torch.randn(6, 2, generator=generator) * 0.004
        boxes = torch.cat([start + t * speed + noise, torch.full((6, 2), 0.2)], dim=1)
        orders.append(torch.randperm(6, generator=generator))
        looks.append(look_at(boxes, classes, orders[-1]))
    tracks = follow(looks, "sigmoid")
    assert tracks.shape == (20, 6)
    assert tracks[-1].tolist() == list(range(6)), "a track is named after its query in the last look"
    followed = torch.stack(
        [order[track] for order, track in zip(orders, tracks, strict=True)]
    )  # [T, n] objects
    assert (followed == followed[-1]).all()
    by_number = torch.stack(orders)
    assert (by_number != by_number[-1]).any(1).sum() >= 15, "numbers alone would have jumped"


def test_two_that_cross_are_told_apart_by_their_class() -> None:
    classes = torch.tensor([0, 1])
    looks, orders = [], []
    for t in range(16):
        x = 0.2 + 0.04 * t  # from 0.48 and 0.52 they change places: by their boxes alone they would stay
        boxes = torch.tensor([[x, 0.5, 0.2, 0.2], [1 - x, 0.5, 0.2, 0.2]])
        orders.append(torch.tensor([1, 0] if t % 3 else [0, 1]))
        looks.append(look_at(boxes, classes, orders[-1]))
    followed = torch.stack([o[t] for o, t in zip(orders, follow(looks, "sigmoid"), strict=True)])
    assert (followed == followed[-1]).all()


def test_one_look_is_followed_by_itself_and_no_distance_lies_between_equals() -> None:
    boxes = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.1, 0.3]])
    look = look_at(boxes, torch.tensor([0, 2]), torch.arange(2))
    assert follow([look], "sigmoid").tolist() == [[0, 1]]
    cost = distance(look, look, "sigmoid")
    torch.testing.assert_close(cost.diagonal(), torch.zeros(2), atol=1e-5, rtol=0)
    assert cost[0, 1] > 1 and cost[1, 0] > 1
