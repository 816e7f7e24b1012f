"""Maps and masses: what lies where, counted cell by cell."""

from __future__ import annotations

import torch

from detrscope.core.types import Level
from detrscope.lens.maps import coverage, map_of, mass_inside, merged_over

LEVEL = Level(4, 8)


def test_coverage_adds_up_to_the_area_of_the_box() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.3, 0.4, 0.13, 0.27], [0.5, 0.5, 1.0, 1.0]])
    share = coverage(boxes, LEVEL)
    assert share.shape == (3, 32) and share.min() >= 0 and share.max() <= 1 + 1e-6
    torch.testing.assert_close(share.mean(1), boxes[:, 2] * boxes[:, 3])
    whole = map_of(share[0], LEVEL)
    assert whole[1:3, 2:6].min() == 1 and whole[0].max() == 0 and whole[:, :2].max() == 0


def test_uniform_attention_has_the_area_inside_and_a_point_all_or_nothing() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]])
    rows = torch.full((2, 2, 32), 1 / 32)
    torch.testing.assert_close(mass_inside(rows, boxes, LEVEL), torch.tensor([0.25, 0.25]))
    point = torch.zeros(2, 2, 32)
    point[:, 0, 8 + 3], point[:, 1, 0] = 1, 1
    torch.testing.assert_close(mass_inside(point, boxes, LEVEL), torch.tensor([1.0, 0.0]))


def test_merged_is_the_mean_of_the_chosen() -> None:
    rows = torch.rand(4, 5, 32).softmax(-1)
    torch.testing.assert_close(merged_over(rows, torch.tensor([1, 3])), rows[:, [1, 3]].mean((0, 1)))
    torch.testing.assert_close(
        merged_over(rows, torch.tensor([], dtype=torch.int64)).sum(), torch.tensor(1.0)
    )
