"""Faithfulness of an explanation: deletion and insertion curves and their areas, without running a model.

Deletion and insertion follow RISE (Petsiuk et al. 2018, arXiv:1806.07421, section 4.3), the score of a detection
D-RISE (Petsiuk et al. 2021, arXiv:2006.03204, section 3.2), the sanity check Adebayo et al. 2018
(arXiv:1810.03292, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch
from torch import Tensor
from torchvision.ops import box_iou

from detrscope.core.boxes import cxcywh_to_xyxy
from detrscope.core.model_card import Scoring
from detrscope.core.postprocess import class_scores
from detrscope.core.types import Outputs


@dataclass(frozen=True)
class Detected:
    """The detection whose score is followed."""

    query: int
    class_index: int
    box_cxcywh: Tensor  # [4] 0..1 of the image


def curve_detection_score(outputs: Outputs, detected: Detected, scoring: Scoring) -> Tensor:
    """Return the score of a detection: the greatest over queries of IoU with its box times the score of its class.

    Any query counts, as another may take over the object. [N, B, Q, *] -> [B].
    """
    scores = class_scores(outputs.logits[-1], scoring)[..., detected.class_index]  # [B, Q]
    boxes = cxcywh_to_xyxy(outputs.boxes_cxcywh[-1].float())  # [B, Q, 4]
    own = cxcywh_to_xyxy(detected.box_cxcywh.to(boxes))[None]  # [1, 4]
    overlap = box_iou(own, boxes.flatten(0, 1)).view(scores.shape)  # [B, Q]
    best: Tensor = (overlap * scores).amax(-1)
    return best


def curve_fractions(steps: int) -> Tensor:
    """Return 0 to 1 in so many steps: [steps + 1]."""
    return torch.linspace(0, 1, steps + 1)


def deletion_order_mask(weights: Tensor, counts: Tensor) -> Tensor:
    """Return which positions have the greatest weights: [S] and counts [n] -> [n, S] bool; ties by index."""
    order = weights.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    return rank[None] < counts.to(rank.device)[:, None]


def area_under(scores: Sequence[float]) -> float:
    """Return the area under a curve with points evenly spaced over 0..1, by trapezoids."""
    return float(torch.trapezoid(torch.tensor(scores, dtype=torch.float64)) / (len(scores) - 1))


@dataclass(frozen=True)
class Curve:
    """Score of one detection as more and more is hidden (deletion) or shown (insertion).

    Attributes:
        method: name of the explanation that ranked the positions.
        where: "keys" of cross-attention or "pixels".
        what: "deletion" or "insertion".
        detection: index of the detection over all images.
        scores: at each fraction from 0 to 1, relative to the undisturbed score.
    """

    method: str
    where: str
    what: str
    detection: int
    scores: tuple[float, ...]

    @property
    def area(self) -> float:
        """Area under the curve: small is faithful in deletion, large in insertion."""
        return area_under(self.scores)


@dataclass(frozen=True)
class Summary:
    """Curves of one method and kind over all detections.

    Attributes:
        area: mean area under the curve.
        error: standard error of that mean over detections.
        difference: mean over detections of this area less that of the random order.
        difference_error: standard error of that.
        better: share of the detections where it beats the random order.
        scores: the mean curve.
    """

    method: str
    where: str
    what: str
    detections: int
    area: float
    error: float
    difference: float
    difference_error: float
    better: float
    scores: tuple[float, ...]


def summarise_curves(curves: Sequence[Curve], against: str = "random") -> list[Summary]:
    """Summarise the curves of each method and kind; several curves of one detection (random orders) are averaged.

    Args:
        curves: curves of all methods, over the same detections.
        against: name of the baseline method.
    """
    areas: dict[tuple[str, str, str], dict[int, list[Curve]]] = {}
    for curve in curves:
        of_kind = areas.setdefault((curve.method, curve.where, curve.what), {})
        of_kind.setdefault(curve.detection, []).append(curve)
    summaries = []
    for (method, where, what), of_detection in areas.items():
        base = areas[against, where, what]
        area = {i: fmean(c.area for c in same) for i, same in of_detection.items()}
        differences = [area[i] - fmean(c.area for c in base[i]) for i in area]
        wins = [(a < 0) == (what == "deletion") and a != 0 for a in differences]
        every = [c.scores for same in of_detection.values() for c in same]
        summaries.append(
            Summary(
                method=method,
                where=where,
                what=what,
                detections=len(area),
                area=fmean(area.values()),
                error=standard_error(list(area.values())),
                difference=fmean(differences),
                difference_error=standard_error(differences),
                better=fmean(wins),
                scores=tuple(fmean(column) for column in zip(*every, strict=True)),
            )
        )
    return summaries


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Return Spearman's rank correlation of two maps [H, W], -1 to 1; 0 where one of them is constant."""
    from scipy.stats import rankdata

    a, b = (torch.from_numpy(rankdata(m.flatten().double().cpu().numpy())) for m in (first, second))
    a, b = a - a.mean(), b - b.mean()
    scale = (a.square().sum() * b.square().sum()).sqrt()
    return float((a * b).sum() / scale) if scale > 0 else 0.0


@dataclass(frozen=True)
class Sanity:
    """Similarity of a method's map when the model's parameters are shuffled from the top down to a stage."""

    method: str
    correlation: Mapping[str, float]  # mean rank correlation with the true map, by stage


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean; NaN of fewer than two values."""
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
