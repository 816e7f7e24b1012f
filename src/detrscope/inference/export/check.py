"""Compare the detections of an exported model with those of PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detrscope.core.model_card import ModelCard
from detrscope.core.postprocess import Scored, postprocess
from detrscope.inference.engine import Engine

COMPARED = 20  # best detections of each image, whatever their scores
CONFIDENT = (
    0.3  # score of the detections that int8 is compared on: the boxes of others wander without any effect
)
ANOTHER_CLASS = 1e3  # cost of pairing detections of different classes


class Tolerance(NamedTuple):
    """Largest differences from PyTorch that are accepted."""

    score: float
    box: float  # pixels of the original image
    mask: float = 0.01  # mean difference of the probability of a pixel


TOLERANCES = {"fp32": Tolerance(1e-3, 0.5), "fp16": Tolerance(1e-2, 1.0, 0.03)}


class NamedImage(NamedTuple):
    """An image and its name in tables."""

    name: str
    image: Tensor  # [3, H, W] uint8


class Pair(NamedTuple):
    """A detection of the reference and the one of the other model that is nearest to it."""

    reference_query: int
    query: int
    score: float  # absolute difference
    box: float  # largest absolute difference of a coordinate, pixels
    same_class: bool
    mask: float = 0.0  # mean absolute difference of the probability of a pixel; 0 without masks


@dataclass(frozen=True)
class Difference:
    """Differences between the detections of two engines in one image."""

    image: str
    width: int  # of the model's input
    height: int
    batch: int
    detections: int  # compared
    score: float  # largest difference
    box: float  # largest difference, pixels of the original
    mask: float  # largest mean difference of the probability of a pixel; 0 without masks
    other_classes: int  # detections whose nearest counterpart has another class

    def exceeds(self, tolerance: Tolerance) -> bool:
        """Return whether a difference is larger than accepted; NaN is."""
        within = self.score <= tolerance.score and self.box <= tolerance.box and self.mask <= tolerance.mask
        return not within or self.other_classes > 0


def pair_detections(
    reference: Scored, other: Scored, tolerance: Tolerance, minimum_score: float = 0.0
) -> list[Pair]:
    """Pair the best detections of a reference one to one with the nearest ones of another model.

    Two-stage models number their queries by rank, which rounding may change; so pairs are those of the least sum of
    differences, not those of equal numbers.

    Args:
        reference: detections to find again, at most `COMPARED` of them.
        other: all detections of the other model.
        tolerance: units of differences of score and box.
        minimum_score: score of the reference from which a detection is compared.
    """
    count = min(COMPARED, int((reference.scores >= minimum_score).sum()))
    score = (reference.scores[:count, None] - other.scores).abs()  # [n, m]
    box = (reference.boxes_xyxy[:count, None] - other.boxes_xyxy).abs().amax(-1)  # [n, m]
    same = reference.class_indices[:count, None] == other.class_indices
    cost = score / tolerance.score + box / tolerance.box
    cost = torch.where(cost.isfinite(), cost, 1e9).clamp(max=1e9) + ANOTHER_CLASS * ~same
    rows, columns = linear_sum_assignment(cost.numpy())
    return [
        Pair(
            int(reference.query_ids[i]),
            int(other.query_ids[j]),
            float(score[i, j]),
            float(box[i, j]),
            bool(same[i, j]),
            _mask_difference(reference, int(i), other, int(j)),
        )
        for i, j in zip(rows, columns, strict=True)
    ]


def _mask_difference(reference: Scored, row: int, other: Scored, other_row: int) -> float:
    """Return the mean difference of two masks' probabilities, 0 without masks, 1 where only one has them."""
    one, two = reference.masks, other.masks
    if one is None or two is None:
        return float((one is None) != (two is None))
    return float((one[row].sigmoid() - two[other_row].sigmoid()).abs().mean())


def compare_detections(
    reference: Engine,
    candidate: Engine,
    card: ModelCard,
    images: Sequence[NamedImage],
    tolerance: Tolerance,
    minimum_score: float = 0.0,
) -> list[Difference]:
    """Return the differences of two engines in each image alone, and in a batch of the first one and its mirror image.

    Args:
        reference: PyTorch.
        candidate: the exported model.
        card: preprocessing and scoring.
        images: images to compare on.
        tolerance: units of differences when detections are paired.
        minimum_score: score of the reference from which a detection is compared.
    """
    rows = []
    for index, (name, image) in enumerate(images):
        batches = [image[None]]
        if index == 0:
            batches.append(torch.stack([image, image.flip(-1)]))
        for batch in batches:
            found = _compare(reference, candidate, card, NamedImage(name, batch), tolerance, minimum_score)
            rows.append(found)
    return rows


def _compare(
    reference: Engine,
    candidate: Engine,
    card: ModelCard,
    batch: NamedImage,
    tolerance: Tolerance,
    minimum_score: float,
) -> Difference:
    inputs = torch.stack([card.preprocessing.apply(image) for image in batch.image])  # [B, 3, h, w]
    sizes = [(image.shape[1], image.shape[2]) for image in batch.image]
    expected, found = (postprocess(engine.predict(inputs), card, sizes) for engine in (reference, candidate))
    pairs = [
        pair
        for one, other in zip(expected, found, strict=True)
        for pair in pair_detections(one, other, tolerance, minimum_score)
    ]
    return Difference(
        image=batch.name,
        width=inputs.shape[3],
        height=inputs.shape[2],
        batch=len(inputs),
        detections=len(pairs),
        score=max((pair.score for pair in pairs), default=0.0),
        box=max((pair.box for pair in pairs), default=0.0),
        mask=max((pair.mask for pair in pairs), default=0.0),
        other_classes=sum(not pair.same_class for pair in pairs),
    )
