"""Denoising queries: true boxes, disturbed, that the decoder learns to put right (DN-DETR, arXiv:2203.01305).

They need no matching, so the decoder learns from them from the first step. They stand in front of the model's own
queries; the groups do not see each other, and the model's queries do not see the truth (`Queries.join`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detrscope.core.types import Target
from detrscope.training.matcher import Matches


@dataclass(frozen=True)
class Noise:
    """How much the truth is disturbed."""

    groups: int
    box: float  # centre and size move by at most this part of the size
    label: float  # probability of a random class


@dataclass(frozen=True)
class Denoising:
    """One batch's denoising queries, E = groups * largest M, and what each should say."""

    labels: Tensor  # [B, E] int64, disturbed
    boxes_cxcywh: Tensor  # [B, E, 4] disturbed
    mask: Tensor  # [E, E] bool, True between queries of different groups
    images: Tensor  # [P] the real ones among them: row in the batch
    queries: Tensor  # [P] place among the E
    targets: Tensor  # [P] index into the boxes of all images, concatenated
    groups: int

    def matches(self, layers: int) -> Matches:
        """The pairs, the same for every decoder layer."""
        return Matches(self.images, self.queries.expand(layers, -1), self.targets.expand(layers, -1))


def make_denoising(targets: Sequence[Target], noise: Noise, classes: int) -> Denoising | None:
    """Disturbed copies of a batch's boxes, or None where there are none.

    Args:
        targets: the truth of each of the B images.
        noise: how many copies, and how far they are moved.
        classes: K.
    """
    counts = [len(target.labels) for target in targets]
    most = max(counts, default=0)
    if not most or not noise.groups:
        return None
    device = targets[0].labels.device
    labels = pad_sequence([t.labels for t in targets], batch_first=True).repeat(1, noise.groups)  # [B, E]
    boxes = pad_sequence([t.boxes_cxcywh for t in targets], batch_first=True)  # [B, M, 4]
    present = torch.arange(most, device=device) < torch.tensor(counts, device=device)[:, None]  # [B, M]
    boxes = torch.where(present[..., None], boxes, boxes.new_tensor([0.5, 0.5, 0.1, 0.1])).repeat(
        1, noise.groups, 1
    )
    shift = (torch.rand_like(boxes) * 2 - 1) * noise.box  # [B, E, 4]
    centre, size = boxes[..., :2], boxes[..., 2:]
    moved = torch.cat([centre + shift[..., :2] * size, size * (1 + shift[..., 2:])], dim=-1).clamp(0.01, 0.99)
    other = torch.randint_like(labels, classes)
    labels = torch.where(torch.rand(labels.shape, device=device) < noise.label, other, labels)
    images, places = present.repeat(1, noise.groups).nonzero(as_tuple=True)  # [P]
    group = torch.arange(noise.groups, device=device).repeat_interleave(most)  # [E]
    first = torch.tensor([0, *counts], device=device).cumsum(0)  # where each image's boxes begin
    return Denoising(
        labels=labels,
        boxes_cxcywh=moved,
        mask=group[:, None] != group[None, :],
        images=images,
        queries=places,
        targets=first[images] + places % most,
        groups=noise.groups,
    )
