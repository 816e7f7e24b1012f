"""A detector whose explanation is known: its score is a linear function of the pixels of one cell of the image."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrscope.core.classes import ClassTable
from detrscope.core.model_card import ModelCard
from detrscope.core.preprocessing import Preprocessing
from detrscope.core.probe import Probe
from detrscope.core.types import Batch, Level, Outputs
from detrscope.inference.detector import Detector
from detrscope.inference.torch_engine import TorchEngine

CELLS, SIDE = 8, 64


class SeesOneCell(nn.Module):
    """One query with a fixed box; its logit is the mean of one cell, the other cells do not matter."""

    sites: tuple[str, ...] = ()
    feature_sites: tuple[str, ...] = ()
    scoring = "sigmoid"

    def __init__(self, row: int, column: int) -> None:
        super().__init__()
        self.backbone = nn.Linear(1, 1)
        self.cell = row * CELLS + column

    def forward(self, batch: Batch, probe: Probe | None = None) -> Outputs:
        tokens = F.avg_pool2d(batch.images, SIDE // CELLS).flatten(2).transpose(1, 2)  # [B, S, 3]
        if probe is not None:
            probe.levels = (Level(CELLS, CELLS),)
            probe.tokens = tokens if probe.keeps_tokens else None
        logit = tokens[:, self.cell].sum(-1)  # [B]
        boxes = torch.tensor([0.5, 0.5, 0.6, 0.6]).expand(1, len(logit), 1, 4)
        return Outputs(logit[None, :, None, None], boxes)


def linear_detector(row: int, column: int) -> Detector:
    """Return a detector of one class that looks at one of 8 x 8 cells of an image of 64 x 64 pixels."""
    card = ModelCard("linear", "linear", {}, ClassTable((1,), ("lit",)), Preprocessing(SIDE, SIDE), "sigmoid")
    return Detector(TorchEngine(SeesOneCell(row, column)), replace(card, top=1))  # type: ignore[arg-type]


def bright_picture() -> Tensor:
    """Return an image that is bright everywhere, [3, 64, 64] uint8."""
    return torch.full((3, SIDE, SIDE), 230, dtype=torch.uint8)
