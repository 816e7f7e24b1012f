"""Gains on levels at a dense site."""

from __future__ import annotations

import pytest
import torch

from detrscope.core.edits import Edit, Gain, Swap
from detrscope.core.errors import UserError
from detrscope.core.probe import Probe
from detrscope.core.records import DenseRecord
from detrscope.core.types import Level
from detrscope.ops.attention import attend

LEVELS = (Level(2, 3), Level(1, 2))


def attended(site: str, *edits: Edit, tokens: int = 8) -> DenseRecord:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, n, 8, generator=generator) for n in (5, tokens, tokens))
    probe = Probe(edits=edits)
    probe.levels = LEVELS
    out = attend(query, key, value, heads=2, site=site, probe=probe)
    record = probe.records[site]
    assert isinstance(record, DenseRecord)
    torch.testing.assert_close(record.output(), out)
    return record


@pytest.mark.parametrize("site", ["encoder.0.self", "decoder.3.cross"])
def test_gain_on_a_level_acts_on_its_tokens(site: str) -> None:
    rows = attended(site).rows()
    muted = attended(site, Gain(site, levels=(1,))).rows()
    assert (muted[..., 6:] == 0).all()
    assert torch.equal(muted[..., :6], rows[..., :6])
    crossed = attended(site, Gain(site, 0.5, heads=(0,), keys=(0, 7), levels=(-1,))).rows()
    rows[:, 0, :, 7] *= 0.5
    assert torch.equal(crossed, rows)


def test_gain_on_a_level_equals_gain_on_its_keys() -> None:
    site = "decoder.0.cross"
    by_level, by_key = Gain(site, 0.2, levels=(0,)), Gain(site, 0.2, keys=tuple(range(6)))
    assert torch.equal(attended(site, by_level).rows(), attended(site, by_key).rows())


@pytest.mark.parametrize(
    ("site", "edit", "tokens", "message"),
    [
        ("decoder.0.self", Gain("*", levels=(0,)), 8, "the 8 keys there are not tokens of the feature maps"),
        ("decoder.0.cross", Gain("*", levels=(0,)), 7, "the 7 keys there are not tokens of the feature maps"),
        ("decoder.0.cross", Gain("*", levels=(2,)), 8, "level 2 is outside 0..1"),
        ("decoder.0.cross", Gain("*", points=(0,)), 8, "attends to all keys and has no points"),
        (
            "encoder.0.self",
            Swap("*", "weights", torch.zeros(1)),
            8,
            "no weights there; valid: key, query, value",
        ),
    ],
)
def test_edits_that_do_not_fit_are_refused(site: str, edit: Edit, tokens: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        attended(site, edit, tokens=tokens)
