"""What edits say of themselves."""

from __future__ import annotations

import pytest
import torch

from detrscope.core.edits import Bias, Edit, Gain, Swap

HIDING = torch.tensor([0.0, float("-inf"), float("-inf"), 1.0])


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (Gain("decoder.*.cross"), "gain 0 at decoder.*.cross"),
        (Gain("a", 0.5, heads=(3,), queries=(1, 2)), "gain 0.5 at a, head 3, queries 1, 2"),
        (Gain("a", keys=tuple(range(9)), levels=(0,)), "gain 0 at a, 9 keys, level 0"),
        (Bias("a", HIDING), "bias at a, hiding 2 of 4"),
        (Bias("a", torch.ones(4)), "bias at a"),
        (Swap("a", "value", HIDING), "value swapped at a"),
    ],
)
def test_edits_describe_themselves(edit: Edit, says: str) -> None:
    assert edit.describe() == says
