"""Denoising queries: noise, masks, ground ground_truth."""

from __future__ import annotations

import torch

from detrscope.core.types import Batch, Queries, Target
from detrscope.families import sprint
from detrscope.training.denoising import Noise, make_denoising

TARGETS = [
    Target(torch.tensor([0, 2]), torch.tensor([[0.25, 0.25, 0.3, 0.2], [0.7, 0.6, 0.4, 0.5]])),
    Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)),
    Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.9, 0.9]])),
]
SEEDS = (5, 6, 7)


def test_noised_boxes_stay_in_bounds_and_match_their_ground_truth() -> None:
    noisy = make_denoising(TARGETS, Noise(groups=3, box=0.4, label=0.0), 3, SEEDS)
    assert noisy is not None
    assert noisy.labels.shape == (3, 6) and noisy.boxes_cxcywh.shape == (3, 6, 4)
    assert len(noisy.images) == 3 * 3, "three boxes, three copies"
    ground_truth = torch.cat([t.boxes_cxcywh for t in TARGETS])[noisy.targets]
    labels = torch.cat([t.labels for t in TARGETS])[noisy.targets]
    boxes = noisy.boxes_cxcywh[noisy.images, noisy.queries]
    assert torch.equal(noisy.labels[noisy.images, noisy.queries], labels)
    shift = (boxes - ground_truth).abs() / ground_truth[:, 2:].repeat(1, 2)
    assert 0 < shift.max() <= 0.4 + 1e-6
    assert bool((noisy.mask == (torch.arange(6)[:, None] // 2 != torch.arange(6)[None] // 2)).all())
    assert make_denoising([TARGETS[1]], Noise(3, 0.4, 0.0), 3, SEEDS[:1]) is None


def test_denoising_queries_do_not_change_the_others() -> None:
    torch.manual_seed(0)
    model = sprint.build(sprint.SprintConfig(width=32), classes=3).eval()
    noisy = make_denoising(TARGETS, Noise(2, 0.4, 0.2), 3, SEEDS)
    assert noisy is not None
    batch = Batch(torch.randn(3, 3, 64, 64))
    with torch.no_grad():
        extra = model.training_support.denoising.queries(noisy.labels, noisy.boxes_cxcywh, noisy.mask)
        with_them, without = model(batch, extra=extra), model(batch)
    own = with_them.logits[:, :, noisy.labels.shape[1] :]
    torch.testing.assert_close(own, without.logits, atol=1e-5, rtol=1e-5)


def test_noise_of_an_image_depends_on_its_seed_only() -> None:
    noise = Noise(groups=2, box=0.4, label=0.5)
    together = make_denoising(TARGETS, noise, 3, SEEDS)
    alone = make_denoising(TARGETS[2:], noise, 3, SEEDS[2:])
    other = make_denoising(TARGETS[2:], noise, 3, SEEDS[:1])
    assert together is not None and alone is not None and other is not None
    of_third = together.images == 2
    boxes = together.boxes_cxcywh[2, together.queries[of_third]]  # [2 copies, 4]
    assert torch.equal(boxes, alone.boxes_cxcywh[0]) and not torch.equal(boxes, other.boxes_cxcywh[0])
    assert torch.equal(together.labels[2, together.queries[of_third]], alone.labels[0])


def test_join_masks_both_sides() -> None:
    own = Queries(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4))
    mask = torch.tensor([[False, True], [True, False]])
    joined = own.join(Queries(torch.ones(1, 2, 4), torch.zeros(1, 2, 4), mask=mask))
    assert joined.mask is not None
    assert torch.equal(joined.mask[:2, :2], mask) and not joined.mask[2:, 2:].any()
    assert joined.mask[:2, 2:].all() and joined.mask[2:, :2].all()
