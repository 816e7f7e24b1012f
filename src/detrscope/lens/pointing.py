"""Pointing games: whether a map's maximum lies in a known region, and the share of its energy there.

The pointing game is that of Zhang et al. 2016 (arXiv:1608.00507), the energy-based one that of Score-CAM
(Wang et al. 2020, arXiv:1910.01279). Without a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from detrscope.lens.deletion_curves import standard_error


@dataclass(frozen=True)
class Pointed:
    """Outcome of one map and one region.

    Attributes:
        method: name of the explanation that gave the map.
        detection: index of the detection over all images.
        hit: the maximum lies within the tolerance of the region.
        inside: the maximum lies in the region.
        energy: share of the map's energy in the region, 0..1.
        area: share of the image that the region covers, 0..1: the energy there of an even map.
    """

    method: str
    detection: int
    hit: bool
    inside: bool
    energy: float
    area: float


@dataclass(frozen=True)
class PointingSummary:
    """Outcomes of one method over all detections; several maps of one detection (random orders) are averaged.

    Attributes:
        hits: share of the detections whose maximum lies within the tolerance of the region.
        hits_error: standard error of that share.
        inside: share of those whose maximum lies in the region.
        inside_error: standard error of that share.
        energy: mean share of the energy in the region.
        energy_error: standard error of that mean.
        area: mean share of the image that the region covers.
    """

    method: str
    detections: int
    hits: float
    hits_error: float
    inside: float
    inside_error: float
    energy: float
    energy_error: float
    area: float


def play_pointing_games(
    importance: Tensor, region: Tensor, tolerance: float, method: str, detection: int
) -> Pointed:
    """Return whether the maximum of a map lies in a region, and the share of the map's energy in it.

    Where several pixels are the greatest, the first of them is taken, row by row. The energy is that of the map less
    its smallest value, as Score-CAM scales it.

    Args:
        importance: [H, W], greater is more important.
        region: [H, W] bool, at least one pixel.
        tolerance: greatest distance along x and along y, in pixels, of a maximum that counts as a hit.
        method: name of the explanation.
        detection: index of the detection.

    Raises:
        ValueError: shapes that differ, an empty region, or numbers that are not finite.
    """
    if importance.shape != region.shape or importance.dim() != 2:
        raise ValueError(f"map {[*importance.shape]} and region {[*region.shape]}: expected the same [H, W]")
    if not bool(region.any()) or not bool(importance.isfinite().all()):
        raise ValueError("expected a region of at least one pixel and a finite map")
    importance = importance.double()
    row, column = divmod(int(importance.argmax()), importance.shape[1])
    rows, columns = region.nonzero().unbind(-1)
    away = torch.maximum((rows - row).abs(), (columns - column).abs()).min()
    energy = importance - importance.min()
    total = float(energy.sum())
    area = float(region.double().mean())
    share = float(energy[region].sum()) / total if total > 0 else area  # an even map has it everywhere
    return Pointed(method, detection, float(away) <= tolerance, bool(away == 0), share, area)


def summarise_pointing(outcomes: Sequence[Pointed]) -> list[PointingSummary]:
    """Summarise the outcomes of each method, in the order of their first."""
    summaries = []
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        by_detection: dict[int, list[Pointed]] = {}
        for outcome in outcomes:
            if outcome.method == method:
                by_detection.setdefault(outcome.detection, []).append(outcome)
        hits = [fmean(o.hit for o in same) for same in by_detection.values()]
        inside = [fmean(o.inside for o in same) for same in by_detection.values()]
        energies = [fmean(o.energy for o in same) for same in by_detection.values()]
        summaries.append(
            PointingSummary(
                method=method,
                detections=len(by_detection),
                hits=fmean(hits),
                hits_error=standard_error(hits),
                inside=fmean(inside),
                inside_error=standard_error(inside),
                energy=fmean(energies),
                energy_error=standard_error(energies),
                area=fmean(same[0].area for same in by_detection.values()),
            )
        )
    return summaries
