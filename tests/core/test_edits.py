"""What edits say of themselves."""

from __future__ import annotations

import pytest
import torch

from detrscope.core.edits import Bias, Edit, Gain, Swap, caption_edit

HIDING = torch.tensor([0.0, float("-inf"), float("-inf"), 1.0])


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (Gain("decoder.*.cross"), "decoder.*.cross: x0"),
        (Gain("a", 0.5, heads=(3,), queries=(1, 2)), "a: heads 3 queries 1,2 x0.5"),
        (Gain("a", keys=tuple(range(9)), levels=(0,)), "a: keys 0-8 levels 0 x0"),
        (Bias("a", HIDING), "bias at a, hiding 2 of 4"),
        (Bias("a", torch.ones(4)), "bias at a"),
        (Swap("a", "value", HIDING), "value swapped at a"),
    ],
)
def test_edits_describe_themselves(edit: Edit, says: str) -> None:
    assert edit.describe() == says == caption_edit(edit)


def test_long_edits_are_short_in_captions() -> None:
    edit = Gain("encoder.0.self", keys=tuple(range(0, 4000, 2)))
    assert len(caption_edit(edit)) < 100 < len(edit.describe())
    assert caption_edit(edit).startswith("encoder.0.self: keys 0,2,") and caption_edit(edit).endswith(
        "3998 x0"
    )
