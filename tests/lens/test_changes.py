"""Detections before and after, paired."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from detrscope.core.trace_data import TraceData
from detrscope.lens.changes import Change, detection_changes, summarise_changes
from tests.support.traces import detector_of, picture

BOXES = [(0.2, 0.2, 0.2, 0.2), (0.5, 0.5, 0.2, 0.4), (0.8, 0.8, 0.2, 0.2), (0.8, 0.2, 0.1, 0.1)]


@pytest.fixture(scope="module")
def base() -> TraceData:
    return detector_of("sprint-dense-n").trace(picture(100, 100), sites=[])


def trace_with(base: TraceData, *rows: tuple[tuple[float, ...], int, float]) -> TraceData:
    """A trace whose queries predict (box, class index, score)."""
    boxes, logits = torch.full((len(rows), 4), 0.5), torch.full((len(rows), 3), -9.0)
    for query, (box, index, score) in enumerate(rows):
        boxes[query], logits[query, index] = torch.tensor(box), torch.tensor(score).logit()
    return replace(base, boxes_cxcywh=boxes[None], logits=logits[None], records={})


def only(changes: list[Change]) -> Change:
    (change,) = changes
    return change


def test_each_kind_of_change(base: TraceData) -> None:
    moved = (0.53, 0.5, 0.2, 0.4)
    before = trace_with(base, (BOXES[0], 0, 0.9), (BOXES[1], 1, 0.8), (BOXES[2], 2, 0.7))
    after = trace_with(base, (BOXES[0], 0, 0.2), (moved, 1, 0.8), (BOXES[2], 0, 0.7), (BOXES[3], 1, 0.6))
    changes = detection_changes(before, after, 0.5)
    assert [change.kind for change in changes] == ["vanished", "appeared", "class", "moved"]
    gone, new, other, shifted = changes
    assert gone.before is not None and gone.after is None and gone.below == pytest.approx(0.2)
    assert gone.score_change == pytest.approx(-0.7)
    assert new.before is None and new.after is not None and new.after.query == 3
    assert new.below is None and new.score_change == pytest.approx(0.6)
    assert other.before is not None and other.after is not None
    assert (other.before.category_id, other.after.category_id) == (base.classes.ids[2], base.classes.ids[0])
    assert shifted.iou == pytest.approx(0.17 / 0.23, abs=1e-4)
    assert summarise_changes(changes) == "1 vanished, 1 appeared, 1 changed class, 1 moved"


@pytest.mark.parametrize(("score", "kind"), [(0.9, "same"), (0.903, "same"), (0.8, "score")])
def test_scores(base: TraceData, score: float, kind: str) -> None:
    change = only(
        detection_changes(trace_with(base, (BOXES[0], 0, 0.9)), trace_with(base, (BOXES[0], 0, score)), 0.5)
    )
    assert change.kind == kind and change.score_change == pytest.approx(score - 0.9, abs=1e-5)


def test_detections_pair_by_place_whatever_their_query(base: TraceData) -> None:
    before = trace_with(base, (BOXES[0], 0, 0.9), (BOXES[1], 0, 0.8))
    after = trace_with(base, (BOXES[1], 0, 0.8), (BOXES[0], 0, 0.9))
    assert [change.kind for change in detection_changes(before, after, 0.5)] == ["same", "same"]


def test_nothing_before_or_after(base: TraceData) -> None:
    nothing = trace_with(base, (BOXES[0], 0, 0.1))
    assert summarise_changes(detection_changes(nothing, nothing, 0.5)) == "nothing detected before or after"
    appeared = only(detection_changes(nothing, trace_with(base, (BOXES[0], 0, 0.9)), 0.5))
    assert appeared.kind == "appeared" and appeared.below == pytest.approx(0.1)


def test_of_boxes_at_one_place_those_of_one_class_are_a_pair(base: TraceData) -> None:
    before = trace_with(base, (BOXES[0], 0, 0.9), (BOXES[0], 1, 0.8))
    after = trace_with(base, (BOXES[0], 1, 0.8), (BOXES[0], 0, 0.9))
    changes = detection_changes(before, after, 0.5)
    assert [change.kind for change in changes] == ["same", "same"]
    assert summarise_changes(changes) == "2 as before"
    for change in changes:
        assert change.before is not None and change.after is not None
        assert change.before.name == change.after.name and change.iou == pytest.approx(1)


def test_of_one_kind_the_greatest_change_of_score_is_first(base: TraceData) -> None:
    before = trace_with(base, (BOXES[0], 0, 0.9), (BOXES[1], 0, 0.9), (BOXES[2], 0, 0.9))
    after = trace_with(base, (BOXES[0], 0, 0.8), (BOXES[1], 0, 0.6), (BOXES[2], 0, 0.7))
    changes = detection_changes(before, after, 0.5)
    assert [change.score_change for change in changes] == pytest.approx([-0.3, -0.2, -0.1], abs=1e-5)
    assert summarise_changes(changes) == "3 changed score"


def test_a_missing_side_has_the_best_score_of_the_same_class_there(base: TraceData) -> None:
    """Not that of another class, nor of a box elsewhere."""
    before = trace_with(base, (BOXES[0], 1, 0.9))
    after = trace_with(base, (BOXES[0], 1, 0.2), (BOXES[0], 0, 0.4), (BOXES[1], 1, 0.45))
    gone = only(detection_changes(before, after, 0.5))
    assert gone.kind == "vanished" and gone.iou == 0 and gone.below == pytest.approx(0.2)
    assert gone.before is not None
    assert gone.before.box_xyxy == pytest.approx((10, 10, 30, 30), abs=1e-4)
