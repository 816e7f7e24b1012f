"""Denoising queries: noised ground-truth boxes that the decoder learns to restore (DN-DETR, arXiv:2203.01305).

They need no matching, so the decoder learns from them from the first step. They stand in front of the model's own
queries. Groups do not attend to each other, nor the model's queries to the ground truth (`Queries.join`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detrscope.core.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from detrscope.core.distributed import reduce_over_ranks
from detrscope.core.types import Target
from detrscope.training.matcher import Matches


@dataclass(frozen=True)
class Noise:
    """Amount of noise on the ground truth."""

    groups: int  # noised copies of every box; 0: as many as `queries` holds
    box: float  # centre and size move by at most this fraction of the size
    label: float  # probability of a random class
    queries: int = 0  # number of queries that groups are made to fill, at least one group
    negatives: bool = False  # a second copy of each, farther away, that must be rejected (DINO)

    @property
    def enabled(self) -> bool:
        """Whether there are denoising queries."""
        return bool(self.groups or self.queries)


@dataclass(frozen=True)
class Denoising:
    """The denoising queries of a batch, E = groups * copies * largest M, and the boxes that they are made from.

    A group has one copy of each box, or two, the second of which must be rejected.
    """

    labels: Tensor  # [B, E] int64, noised
    boxes_cxcywh: Tensor  # [B, E, 4] noised
    mask: Tensor  # [E, E] bool, True between queries of different groups
    images: Tensor  # [P] row in the batch of those that are no padding
    queries: Tensor  # [P] their index among the E
    targets: Tensor  # [P] index into the boxes of all images, concatenated
    groups: int
    padding: Tensor  # [B, E] bool, True where an image has no such box

    def matches(self, layers: int) -> Matches:
        """Return the pairs of query and box, the same for every decoder layer."""
        return Matches(self.images, self.queries.expand(layers, -1), self.targets.expand(layers, -1))


def make_denoising(
    targets: Sequence[Target], noise: Noise, classes: int, seeds: Sequence[int]
) -> Denoising | None:
    """Make noised copies of a batch's boxes; None where there are no boxes, in this process and in all others.

    Args:
        targets: ground truth of each of the B images.
        noise: number of copies and amount of noise.
        classes: K.
        seeds: seed of each image's noise, which so depends neither on the other images of the batch nor on the number
            of processes.
    """
    counts = [len(target.labels) for target in targets]
    device = targets[0].labels.device
    # Queries that pad a group take part in its attention: so groups are as large as on one process.
    most = int(reduce_over_ranks(torch.tensor(max(counts), device=device), "max"))
    if not most or not noise.enabled:
        return None
    groups, copies = noise.groups or max(1, noise.queries // most), 1 + noise.negatives
    labels = _padded([t.labels for t in targets], most).repeat(1, groups * copies)  # [B, E]
    boxes = _padded([t.boxes_cxcywh for t in targets], most)  # [B, M, 4]
    present = torch.arange(most, device=device) < torch.tensor(counts, device=device)[:, None]  # [B, M]
    boxes = torch.where(present[..., None], boxes, boxes.new_tensor([0.5, 0.5, 0.1, 0.1]))
    boxes = boxes.repeat(1, groups * copies, 1)  # [B, E, 4]
    drawn = [_draw(count, groups * copies, seed) for count, seed in zip(counts, seeds, strict=True)]
    random = _padded([d.transpose(0, 1) for d in drawn], most).transpose(1, 2)  # [B, G, M, 6]
    random = random.flatten(1, 2).to(device)  # [B, E, 6] in 0..1
    position = torch.arange(groups * copies * most, device=device)  # [E]
    is_negative = position // most % copies == 1  # [E]
    move = _move_corners if noise.negatives else _move_centres
    other = (random[..., 4] * classes).long().clamp(max=classes - 1)
    labels = torch.where(random[..., 5] < noise.label, other, labels)
    real = present.repeat(1, groups * copies) & ~is_negative  # [B, E]
    images, queries = real.nonzero(as_tuple=True)  # [P]
    group = position // (most * copies)  # [E]
    first = torch.tensor([0, *counts], device=device).cumsum(0)  # of each image's boxes
    return Denoising(
        labels=labels,
        boxes_cxcywh=move(boxes, random[..., :4], noise.box, is_negative),
        mask=group[:, None] != group[None, :],
        images=images,
        queries=queries,
        targets=first[images] + queries % most,
        groups=groups,
        padding=~present.repeat(1, groups * copies),
    )


def _move_centres(boxes: Tensor, random: Tensor, most: float, is_negative: Tensor) -> Tensor:
    """Move centre and size of boxes by up to a fraction of the size (DN-DETR, arXiv:2203.01305, section 3.3)."""
    shift = (random * 2 - 1) * most  # [B, E, 4]
    centre, size = boxes[..., :2], boxes[..., 2:]
    moved = torch.cat([centre + shift[..., :2] * size, size * (1 + shift[..., 2:])], dim=-1)
    return moved.clamp(0.01, 0.99)


def _move_corners(boxes: Tensor, random: Tensor, most: float, is_negative: Tensor) -> Tensor:
    """Move corners by up to half of `most` times the size, those of negatives by one to two times as far.

    Contrastive denoising (DINO, arXiv:2203.03605, section 3.3), on corners as RT-DETR trains.
    """
    size = boxes[..., 2:]
    distance = (random * 2 - 1).abs() + is_negative[:, None]  # [B, E, 4] in 0..1, or 1..2
    sign = torch.where(random < 0.5, -1.0, 1.0)
    corners = cxcywh_to_xyxy(boxes) + sign * distance * torch.cat([size, size], dim=-1) * (most / 2)
    return xyxy_to_cxcywh(corners.clamp(0, 1)).clamp(0.0, 1.0)


def noise_seed(*numbers: int) -> int:
    """Return a seed of an image's noise that depends on all of these numbers."""
    words = [number % 2**64 for number in numbers]  # an image id may be negative
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def _padded(parts: Sequence[Tensor], length: int) -> Tensor:
    """Stack tensors [M_i, ...] of the B images, padded with zeros: [B, length, ...]."""
    stacked = pad_sequence(list(parts), batch_first=True)  # [B, M, ...]
    missing = stacked.new_zeros(len(stacked), length - stacked.shape[1], *stacked.shape[2:])
    return torch.cat([stacked, missing], dim=1)


def _draw(boxes: int, groups: int, seed: int) -> Tensor:
    """Return the random numbers of an image's copies, [G, M, 6] in 0..1: four for the box, two for the label."""
    return torch.rand(groups, boxes, 6, generator=torch.Generator().manual_seed(seed))
