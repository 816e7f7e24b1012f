"""Visual Precision Search (Chen et al. 2025, arXiv:2411.16198): the order in which regions bring a detection back.

Regions of the image are chosen one after another: always the one that, shown with those before it, finds the detection
best and, hidden with them, loses it most. Needs predictions only, so every engine can be explained.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detrscope.inference.detector import Detector
from detrscope.lens.deletion_curves import Detected, curve_detection_score

GRID = 7  # rows and columns of regions; squares, where the paper takes about a hundred superpixels
_BATCH = 32
_LEAST = 1e-6  # fall of importance to the next region, so that regions without effect keep their order


def search_regions(detector: Detector, image: Tensor, detected: Detected, grid: int = GRID) -> Tensor:
    """Return the importance of every pixel of the model's input for a detection: [h, w], 0..1.

    The value of a set of regions S is F(S) = s(S) + 1 - s(V without S), the paper's clue and collaboration scores: s is
    the greatest IoU times class score of all queries where the image shows these regions only, the rest in the mean
    colour. Greedy search orders the n = grid^2 regions by n (n + 1) runs of the model. The first region gets the
    highest importance, every later one that of the region before it less |F(S_i) - F(S_{i-1})|; the last has 0.

    Args:
        detector: runs the images.
        image: [3, h, w] normalised.
        detected: the detection to explain.
        grid: rows and columns of regions, 2 or more.
    """
    height, width = image.shape[1:]
    rows, columns = (torch.arange(side) * grid // side for side in (height, width))
    index = rows[:, None] * grid + columns  # [h, w]: region of every pixel
    chosen = torch.zeros(grid * grid, dtype=torch.bool)
    order: list[int] = []
    values: list[float] = []
    while not bool(chosen.all()):
        rest = (~chosen).nonzero()[:, 0]  # [n]
        sets = chosen.repeat(len(rest), 1)
        sets[torch.arange(len(rest)), rest] = True  # [n, regions]
        value = _scores(detector, image, detected, sets[:, index]) + 1
        value -= _scores(detector, image, detected, ~sets[:, index])
        best = int(value.argmax())
        order.append(int(rest[best]))
        values.append(float(value[best]))
        chosen[order[-1]] = True
    steps = torch.tensor(values).diff().abs() + _LEAST
    fallen = torch.cat([torch.zeros(1), steps.cumsum(0)])
    importance = torch.empty(grid * grid)
    importance[order] = 1 - fallen / fallen[-1]
    return importance[index]


def _scores(detector: Detector, image: Tensor, detected: Detected, shown: Tensor) -> Tensor:
    """Return the score of the detection where only some pixels, bool [n, h, w], are shown: [n]."""
    parts = [
        curve_detection_score(detector.predict(image * masks[:, None]), detected, detector.card.scoring)
        for masks in torch.split(shown, _BATCH)
    ]
    return torch.cat(parts).float().cpu()
