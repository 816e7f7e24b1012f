"""What an intervention changes: detections of the same image before and after, paired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

from detrscope.core.trace_data import TraceData
from detrscope.core.types import Detections

ChangeKind = Literal["vanished", "appeared", "class", "moved", "score", "same"]
LEAST_IOU = 0.3  # of two boxes that are the same object
MOVED_IOU = 0.95  # boxes that overlap less have moved
SCORE_STEP = 0.005  # scores that differ less are the same


@dataclass(frozen=True)
class DetectedBox:
    """One detection of a change."""

    query: int
    category_id: int
    name: str
    score: float
    box_xyxy: tuple[float, float, float, float]  # pixels of the original


@dataclass(frozen=True)
class Change:
    """One object before and after; None where there is no such detection.

    Attributes:
        kind: what changed most: whether there is a detection, its class, its box, its score.
        before: detection without the edits.
        after: detection with them.
        iou: overlap of the two boxes; 0 where one is missing.
        below: score of the object on the side where it is missing: the best score there for its class among boxes of
            the same place, under the threshold.
    """

    kind: ChangeKind
    before: DetectedBox | None
    after: DetectedBox | None
    iou: float
    below: float | None = None

    @property
    def score_change(self) -> float:
        """Score after less score before."""
        before = self.below if self.before is None else self.before.score
        after = self.below if self.after is None else self.after.score
        return (after or 0.0) - (before or 0.0)


def detection_changes(before: TraceData, after: TraceData, threshold: float) -> list[Change]:
    """Pair the detections of two traces of one image, and say what became of each.

    Detections are paired so that their boxes overlap most in all (IoU of at least 0.3), those of one class first.

    Args:
        before: trace without edits.
        after: trace with edits.
        threshold: minimum score of a detection.

    Returns:
        Changes by kind, vanished first, those with the greatest change of score first.
    """
    first, second = before.detections(threshold), after.detections(threshold)
    iou = box_iou(first.boxes_xyxy.float(), second.boxes_xyxy.float())  # [n, m]
    same_class = first.labels[:, None] == second.labels
    gain = torch.where(iou >= LEAST_IOU, iou + same_class, torch.zeros(()))
    rows, columns = linear_sum_assignment(gain.numpy(), maximize=True)
    pairs = {int(i): int(j) for i, j in zip(rows, columns, strict=True) if gain[i, j] > 0}
    changes = []
    for i in range(len(first)):
        old = _box(first, i)
        if i not in pairs:
            changes.append(Change("vanished", old, None, 0.0, _best_below(after, first, i)))
            continue
        j = pairs[i]
        changes.append(_change_of(old, _box(second, j), float(iou[i, j])))
    found = set(pairs.values())
    for j in range(len(second)):
        if j not in found:
            changes.append(Change("appeared", None, _box(second, j), 0.0, _best_below(before, second, j)))
    order: tuple[ChangeKind, ...] = ("vanished", "appeared", "class", "moved", "score", "same")
    return sorted(changes, key=lambda c: (order.index(c.kind), -abs(c.score_change)))


def summarise_changes(changes: list[Change]) -> str:
    """Return such as `1 vanished, 2 moved, 3 as before`."""
    words = {
        "vanished": "vanished",
        "appeared": "appeared",
        "class": "changed class",
        "moved": "moved",
        "score": "changed score",
        "same": "as before",
    }
    counts = [(sum(c.kind == kind for c in changes), word) for kind, word in words.items()]
    return (
        ", ".join(f"{count} {word}" for count, word in counts if count) or "nothing detected before or after"
    )


def _change_of(before: DetectedBox, after: DetectedBox, iou: float) -> Change:
    kind: ChangeKind = "same"
    if before.name != after.name:
        kind = "class"
    elif iou < MOVED_IOU:
        kind = "moved"
    elif abs(after.score - before.score) >= SCORE_STEP:
        kind = "score"
    return Change(kind, before, after, iou)


def _box(detections: Detections, index: int) -> DetectedBox:
    x0, y0, x1, y1 = detections.boxes_xyxy[index].tolist()
    return DetectedBox(
        int(detections.query_ids[index]),
        int(detections.labels[index]),
        detections.names[index],
        float(detections.scores[index]),
        (x0, y0, x1, y1),
    )


def _best_below(trace: TraceData, detections: Detections, index: int) -> float | None:
    """Return the best score of a detection's class among the predictions at its place; None if no box is there."""
    overlap = box_iou(detections.boxes_xyxy[index : index + 1].float(), trace.boxes_xyxy().float())[0]  # [Q]
    there = overlap >= LEAST_IOU
    if not bool(there.any()):
        return None
    column = trace.classes.index_of(int(detections.labels[index]))
    return float(trace.scores()[there, column].max())
