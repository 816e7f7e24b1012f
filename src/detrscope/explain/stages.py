"""The stage at which a detector lost an object or made a false detection, from the predictions of all its layers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from detrscope.core.verdicts import Evidence, Stage, Verdict
from detrscope.evaluation.error_types import SUSPECT_SCORE
from detrscope.evaluation.object_matching import MATCH_IOU, LabelledBoxes, match_objects
from detrscope.explain.image_predictions import Crowds, ImagePredictions, Objects

NEAR_IOU = 0.1  # a box that overlaps less is not on the object at all, as in TIDE
PROPOSAL_IOU = 0.3  # of a box that a query starts from: the decoder refines it


class Detected(NamedTuple):
    """Detections of the last layer with a score of at least the threshold, the best first."""

    queries: list[int]
    labels: list[int]
    scores: list[float]


def image_verdicts(
    image_id: Any,
    image: str,
    predictions: ImagePredictions,
    objects: Objects,
    names: Sequence[str],
    threshold: float,
    crowds: Crowds | None = None,
    known: Collection[int] | None = None,
) -> list[Verdict]:
    """Return what went wrong in an image: every object that is not found, every detection that finds none.

    Detections count from the threshold up and find an object of their class at an IoU of .5, one each, as COCO's AP
    counts them.

    Args:
        image_id: id of the image.
        image: its file.
        predictions: of the model.
        objects: what is annotated.
        names: classes of the model.
        threshold: minimum score of a detection.
        crowds: detections of their class inside them count neither for nor against.
        known: class indices that the dataset has; detections of others are left out. None is all.
    """
    judge = _Judge(predictions, objects, names, threshold, known)
    missed = [judge.missed(index) for index in judge.lost_objects()]
    false = [judge.false(place) for place in judge.false_detections(crowds)]
    return [replace(verdict, image_id=image_id, image=image) for verdict in (*missed, *false)]


class _Judge:
    def __init__(
        self,
        predictions: ImagePredictions,
        objects: Objects,
        names: Sequence[str],
        threshold: float,
        known: Collection[int] | None,
    ) -> None:
        self.p, self.objects, self.names, self.threshold = predictions, objects, names, threshold
        self.known = range(len(names)) if known is None else known
        layers, queries, _ = predictions.scores.shape
        self.iou = box_iou(predictions.boxes_xyxy.reshape(-1, 4), objects.boxes_xyxy)
        self.iou = self.iou.reshape(layers, queries, len(objects.labels))  # [N, Q, M]
        self.detected = self._detections()
        found = LabelledBoxes(
            predictions.boxes_xyxy[-1, self.detected.queries].reshape(-1, 4),
            torch.tensor(self.detected.labels, dtype=torch.int64),
        )
        self.matches = match_objects(LabelledBoxes(objects.boxes_xyxy, objects.labels), found).tolist()
        self.taken = {self.detected.queries[place] for place in self.matches if place >= 0}

    def _detections(self) -> Detected:
        scores = self.p.scores[-1]  # [Q, classes]
        if self.p.softmax:
            best, labels = scores.max(1)
            queries = torch.arange(len(best))
        else:
            best, flat = scores.flatten().sort(descending=True, stable=True)
            queries, labels = flat // scores.shape[1], flat % scores.shape[1]
        order = best.argsort(descending=True, stable=True)
        order = order[best[order] >= self.threshold]
        kept = [i for i in order.tolist() if int(labels[i]) in self.known]
        return Detected(
            [int(queries[i]) for i in kept], [int(labels[i]) for i in kept], [float(best[i]) for i in kept]
        )

    def lost_objects(self) -> list[int]:
        return [index for index, detection in enumerate(self.matches) if detection < 0]

    def false_detections(self, crowds: Crowds | None) -> list[int]:
        matched = set(self.matches)
        places = [place for place in range(len(self.detected.queries)) if place not in matched]
        if crowds is None:
            return places
        return [
            place
            for place in places
            if not self._inside(place, crowds.boxes_xyxy[crowds.labels == self.detected.labels[place]])
        ]

    def _inside(self, place: int, regions: Tensor) -> bool:
        """Return whether half of a detection's area lies in a crowd: COCO's rule at an IoU of .5."""
        box = self.p.boxes_xyxy[-1, self.detected.queries[place]]
        corner, end = box[:2].maximum(regions[:, :2]), box[2:].minimum(regions[:, 2:])
        shared = (end - corner).clamp(min=0).prod(1)
        return bool((shared >= MATCH_IOU * (box[2:] - box[:2]).clamp(min=0).prod()).any())

    def missed(self, index: int) -> Verdict:
        label = int(self.objects.labels[index])
        iou = self.iou[:, :, index]  # [N, Q]
        near = iou >= MATCH_IOU
        score = [self._best(self.p.scores[layer, row, label]) for layer, row in enumerate(near)]
        evidence = Evidence(tuple(iou.amax(1).tolist()), tuple(score), self._margins(iou.argmax(1), label))
        stage, text, query, layer, other = self._why_missed(index, label, near, score)
        # An object that the model sees clearly, with a class of its own choice, may be annotated wrongly.
        suspected = (
            stage == "wrong class" and query is not None and self._other(query, label)[1] >= SUSPECT_SCORE
        )
        return Verdict(
            None,
            "",
            "missed",
            stage,
            _box(self.objects.boxes_xyxy[index]),
            self.names[label],
            text,
            evidence,
            self.objects.annotations[index],
            query,
            score[-1],
            layer,
            other,
            suspected=suspected,
        )

    def _why_missed(
        self, index: int, label: int, near: Tensor, score: Sequence[float | None]
    ) -> tuple[Stage, str, int | None, int | None, str]:
        """Return stage, evidence in words, query on the object, layer in which it was lost, and the other class."""
        last, iou = len(near) - 1, self.iou[:, :, index]
        had = [layer for layer in range(last) if (score[layer] or 0.0) >= self.threshold]
        if bool(near[-1].any()):
            rows = near[-1].nonzero().flatten()
            query = int(rows[self.p.scores[-1, rows, label].argmax()])
            own = float(self.p.scores[-1, query, label])
            detected = set(zip(self.detected.queries, self.detected.labels, strict=True))
            if (query, label) in detected:
                return (
                    "one query for two",
                    f"query {query} (score {own:.2f}) counts for an object that it overlaps more",
                    query,
                    None,
                    "",
                )
            free = [
                row for row in rows.tolist() if row not in self.taken
            ]  # the others are right about another object
            elsewhere = [(*self._other(row, label), row) for row in free]
            other, best, row = max(elsewhere, key=lambda one: one[1], default=("", -1.0, -1))
            if best >= self.threshold:
                overlap = float(iou[-1, row])
                text = f"query {row} is on it (IoU {overlap:.2f}) as {other} {best:.2f}; {self.names[label]}: {own:.2f}"
                return "wrong class", text, row, None, other
            if had:
                text = f"scored {score[had[-1]]:.2f} in layer {had[-1]}, {own:.2f} in the last"
                return "lost in a layer", text, query, had[-1] + 1, ""
            text = f"query {query} is on it with a score of {own:.2f}, below {self.threshold:g}"
            return "low score", text, query, None, ""
        reached = [layer for layer in range(last) if bool(near[layer].any())]
        if reached:
            layer = reached[-1]
            query = int(iou[layer].argmax())
            text = (
                f"query {query} had it in layer {layer} (IoU {float(iou[layer].max()):.2f});"
                f" the best in the last has {float(iou[-1].max()):.2f}"
            )
            return "lost in a layer", text, query, layer + 1, ""
        placed = [
            (float(iou[-1, q]), q, s)
            for q, named, s in zip(
                self.detected.queries, self.detected.labels, self.detected.scores, strict=True
            )
            if named == label and float(iou[-1, q]) >= NEAR_IOU and q not in self.taken
        ]
        box = self.objects.boxes_xyxy[index]
        width, height = (box[2:] - box[:2]).tolist()
        if width * height < self.p.token[0] * self.p.token[1]:
            text = (
                f"{width:.1f} x {height:.1f} pixels; a token is {self.p.token[0]:.1f} x {self.p.token[1]:.1f}"
            )
            return "smaller than a token", text, None, None, ""
        queries = self.p.scores.shape[1]
        if len(self.objects.labels) > queries:
            text = f"{len(self.objects.labels)} objects, {queries} queries"
            return "more objects than queries", text, None, None, ""
        if placed:
            overlap, query, own = max(placed)
            text = f"query {query} ({self.names[label]} {own:.2f}) overlaps it by {overlap:.2f} only"
            return "badly placed", text, query, None, ""
        if self.p.starts_xyxy is not None:
            start = float(box_iou(self.p.starts_xyxy, box[None]).max())
            if start < PROPOSAL_IOU:
                return (
                    "not among the proposals",
                    f"the best proposal overlaps it by {start:.2f}",
                    None,
                    None,
                    "",
                )
        return "never reached", f"the best overlap in any layer is {float(iou.max()):.2f}", None, None, ""

    def false(self, place: int) -> Verdict:
        query, label = self.detected.queries[place], self.detected.labels[place]
        score = self.detected.scores[place]
        overlaps = self.iou[-1, query]  # [M]
        same = self.objects.labels == label
        own = float(overlaps[same].max()) if bool(same.any()) else 0.0
        any_iou, at = (float(overlaps.max()), int(overlaps.argmax())) if len(overlaps) else (0.0, -1)
        path = self.iou[:, query].amax(1).tolist() if len(overlaps) else [0.0] * len(self.iou)
        evidence = Evidence(
            tuple(path),
            tuple(self.p.scores[:, query, label].tolist()),
            self._margins(torch.full((len(self.iou),), query), label),
        )
        stage: Stage
        other, suspected, repeats, place_of = "", False, None, None
        if own >= MATCH_IOU:
            found = int(overlaps.where(same, -1.0).argmax())
            finder, place_of = self.matches[found], _box(self.objects.boxes_xyxy[found])
            repeats = self.detected.queries[finder]
            stage, text = "duplicate", f"overlaps by {own:.2f} the object that query {repeats} has found"
        elif any_iou >= MATCH_IOU:
            other = self.names[int(self.objects.labels[at])]
            stage, text = "wrong class", f"on an object (IoU {any_iou:.2f}) that is annotated as {other}"
            suspected = score >= SUSPECT_SCORE
        elif own >= NEAR_IOU:
            stage, text = (
                "badly placed",
                f"overlaps an object of its class by {own:.2f}, less than {MATCH_IOU:g}",
            )
        else:
            stage, text = "on nothing", f"the nearest object overlaps it by {any_iou:.2f}"
            suspected = score >= SUSPECT_SCORE and any_iou < NEAR_IOU
        return Verdict(
            None,
            "",
            "false",
            stage,
            _box(self.p.boxes_xyxy[-1, query]),
            self.names[label],
            text,
            evidence,
            query=query,
            score=score,
            other=other,
            repeats=repeats,
            object_xyxy=place_of,
            suspected=suspected,
        )

    def _other(self, query: int, label: int) -> tuple[str, float]:
        """Return the best other class of a query in the last layer, and its score."""
        scores = self.p.scores[-1, query].clone()
        scores[label] = -1.0
        best, index = scores.max(0)
        return (self.names[int(index)], float(best)) if float(best) >= 0 else ("", 0.0)

    def _margins(self, queries: Tensor, label: int) -> tuple[float, ...]:
        """Return, layer by layer, the score of a query for a class less its best other one."""
        rows = self.p.scores[torch.arange(len(queries)), queries].clone()  # [N, classes]
        own = rows[:, label].clone()
        rows[:, label] = 0.0
        return tuple((own - rows.amax(1)).tolist())

    @staticmethod
    def _best(scores: Tensor) -> float | None:
        return float(scores.max()) if len(scores) else None


def _box(box: Tensor) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box.tolist()
    return x0, y0, x1, y1
