"""What the images of a batch share: how large they are, and whether they are augmented strongly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class BatchDraw(NamedTuple):
    """What is drawn for a batch.

    Attributes:
        side: sides of its square images; None: those of evaluation.
        strong: whether augmentation that ends before the training does is still on.
    """

    side: int | None = None
    strong: bool = True


class ImageKey(NamedTuple):
    """Key of a training image: its randomness depends on the first two only."""

    epoch_seed: int
    image: int  # its index
    draw: BatchDraw


@dataclass(frozen=True)
class BatchDraws:
    """What batches draw, from seed, epoch and number of the batch only: the same in every process.

    Attributes:
        sides: sides to draw from; empty: none is drawn.
        stop_epoch: first epoch, from 1, without strong augmentation and drawn sides; None: none.
    """

    sides: tuple[int, ...] = ()
    stop_epoch: int | None = None

    def of(self, seed: int, epoch: int, batch: int) -> BatchDraw:
        """Return what a batch draws.

        Args:
            seed: random seed of the training.
            epoch: number of the epoch, from 0.
            batch: number of the batch, from 0.
        """
        strong = self.stop_epoch is None or epoch + 1 < self.stop_epoch
        if not (strong and self.sides):
            return BatchDraw(None, strong)
        entropy = np.random.SeedSequence([seed, epoch, batch]).generate_state(1, np.uint64)[0]
        return BatchDraw(self.sides[int(entropy) % len(self.sides)], strong)
