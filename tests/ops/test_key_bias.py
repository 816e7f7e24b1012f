"""Hidden and favoured keys, at both doors: regions, keys, levels, points."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from detrscope.core.edits import Bias, Edit, Gain, KeyBias
from detrscope.core.errors import UserError
from detrscope.core.geometry import Geometry
from detrscope.core.probe import Probe
from detrscope.core.records import DeformableRecord, DenseRecord
from detrscope.core.types import Level
from detrscope.ops.attention import attend
from detrscope.ops.deformable import sample

LEVELS, POINT_LEVELS = (Level(4, 6), Level(2, 3)), (0, 0, 1)
TOKENS, QUERIES = 30, 5
GEOMETRY = Geometry.of_resize(
    80, 120, (40, 60)
)  # a cell of the first level is 20 x 20 pixels of the original
REGION = (
    20.0,
    20.0,
    60.0,
    40.0,
)  # two of its cells, and one centre of the second level: (20, 20) to (60, 60)
INSIDE = [7, 8]


def dense(*edits: Edit, site: str = "decoder.0.cross", geometry: Geometry | None = GEOMETRY) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, n, 8, generator=generator) for n in (QUERIES, TOKENS, TOKENS))
    probe = Probe(edits=edits, geometry=geometry)
    probe.levels = LEVELS
    out = attend(query, key, value, heads=2, site=site, probe=probe)
    record = probe.records[site]
    assert isinstance(record, DenseRecord)
    torch.testing.assert_close(record.output(), out)
    return record.rows()[0]  # [h, Q, S]


def deformable(*edits: Edit) -> DeformableRecord:
    generator = torch.Generator().manual_seed(0)
    probe = Probe(edits=edits, geometry=GEOMETRY)
    site = "encoder.0.self"
    out = sample(
        torch.randn(1, TOKENS, 2, 4, generator=generator),
        torch.rand(1, QUERIES, 2, 3, 2, generator=generator),
        torch.randn(1, QUERIES, 2, 3, generator=generator),
        levels=LEVELS,
        point_levels=POINT_LEVELS,
        reference=torch.zeros(1, QUERIES, 2, 2),
        site=site,
        probe=probe,
    )
    record = probe.records[site]
    assert isinstance(record, DeformableRecord)
    torch.testing.assert_close(record.output(), out)
    return record


def region_keys() -> list[int]:
    """Tokens whose centre lies in the region, by hand; of the second level, (20..60, 20..60) has its centre outside."""
    centres = [(level, x, y) for level in LEVELS for y in range(level.height) for x in range(level.width)]
    keys = []
    for number, (level, x, y) in enumerate(centres):
        cx, cy = (x + 0.5) * 120 / level.width, (y + 0.5) * 80 / level.height
        if REGION[0] <= cx <= REGION[2] and REGION[1] <= cy <= REGION[3]:
            keys.append(number)
    return keys


def test_hidden_regions_get_no_attention_and_the_others_are_renormalised() -> None:
    rows, hidden = dense(), dense(KeyBias("*", region_xyxy=REGION))
    keys = region_keys()
    assert keys[:2] == INSIDE
    others = [k for k in range(TOKENS) if k not in keys and k != 24]
    assert (hidden[..., keys] == 0).all()
    torch.testing.assert_close(hidden.sum(-1), torch.ones(2, QUERIES))
    ratio = hidden[..., others] / rows[..., others]
    torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio))
    assert (ratio > 1).all()


def test_a_region_smaller_than_a_cell_is_the_cell_at_its_middle() -> None:
    hidden = dense(KeyBias("*", region_xyxy=(22, 22, 24, 24)))
    assert (hidden == 0).all((0, 1)).nonzero()[:, 0].tolist() == [7, 24]


def test_hiding_and_favouring_equal_a_bias_on_all_keys() -> None:
    scores = torch.zeros(2, QUERIES, TOKENS)
    scores[1, [0, 3], 4:6] = 1.5
    edit = KeyBias("*", 1.5, keys=(4, 5), heads=(1,), queries=(0, 3))
    assert torch.equal(dense(edit), dense(Bias("*", scores)))
    scores = torch.zeros(TOKENS)
    scores[24:] = -math.inf
    assert torch.equal(dense(KeyBias("*", levels=(1,))), dense(Bias("*", scores)))


def test_sites_whose_keys_are_queries_leave_regions_alone() -> None:
    site = "decoder.0.self"
    assert torch.equal(dense(KeyBias("*", region_xyxy=REGION), site=site), dense(site=site))
    hidden = dense(KeyBias("*", keys=(3,)), site=site)
    assert (hidden[..., 3] == 0).all() and (hidden.sum(-1) - 1).abs().max() < 1e-6


def test_deformable_regions_multiply_the_values() -> None:
    keys = [*region_keys()]
    hidden = deformable(KeyBias("*", region_xyxy=REGION)).rows()[0]
    zero = (hidden == 0).all((0, 1)).nonzero()[:, 0].tolist()
    assert set(keys) <= set(zero)
    plain = deformable().rows()[0]
    seen = [k for k in range(TOKENS) if k not in zero]
    assert torch.equal(hidden[..., seen], plain[..., seen]), "nothing is renormalised"
    favoured = deformable(KeyBias("*", 1.0, keys=tuple(keys))).rows()[0]
    torch.testing.assert_close(favoured[..., keys], plain[..., keys] * math.e)


def test_deformable_points_and_levels_are_hidden_before_the_softmax() -> None:
    scores = torch.zeros(3)
    scores[2] = -math.inf
    for edit in (KeyBias("*", points=(2,)), KeyBias("*", levels=(1,))):
        assert torch.equal(deformable(edit).weights, deformable(Bias("*", scores)).weights)
    some = deformable(KeyBias("*", points=(0,), heads=(1,), queries=(2,)))
    assert some.weights[0, 1, 2, 0] == 0 and torch.equal(some.weights[0, 0], deformable().weights[0, 0])


def test_deformable_points_of_a_region() -> None:
    edit = KeyBias("*", region_xyxy=REGION, points=(0,))
    keys = tuple((dense(KeyBias("*", region_xyxy=REGION)) == 0).all((0, 1)).nonzero()[:, 0].tolist())
    assert torch.equal(deformable(edit).rows(), deformable(Gain("*", 0.0, keys=keys, points=(0,))).rows())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (KeyBias("*", region_xyxy=(200, 0, 300, 20)), "lies outside of the image: x 0 to 120, y 0 to 80"),
        (
            KeyBias("*", region_xyxy=(0, 0, 120, 80)),
            "hides every key; to mute the attention, use the factor x0",
        ),
        (KeyBias("*", points=(0,)), "attends to all keys and has no points"),
        (KeyBias("*", levels=(2,)), "level 2 is outside 0..1"),
        (KeyBias("*", keys=(30,)), "key 30 is outside 0..29"),
    ],
)
def test_edits_that_do_not_fit_are_errors(edit: KeyBias, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        dense(edit)
    assert edit.describe() in str(error.value)


def test_a_region_needs_an_image() -> None:
    with pytest.raises(UserError, match="a region is of one image"):
        dense(KeyBias("*", region_xyxy=REGION), geometry=None)
    with pytest.raises(UserError, match="hides every point"):
        deformable(KeyBias("*", levels=(0, 1)))


def test_edits_of_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="expected a region, keys, levels or points"):
        KeyBias("*", heads=(1,))
    with pytest.raises(UserError, match="x0 < x1 and y0 < y1"):
        KeyBias("*", region_xyxy=(3, 0, 2, 5))
    assert Bias.hide((1, 2, 3, 4)) == KeyBias("*", region_xyxy=(1.0, 2.0, 3.0, 4.0))
    assert Bias.favour((1, 2, 3, 4), 2.0, "a").score == 2.0
    with pytest.raises(UserError, match="found 3 numbers"):
        Bias.hide((1, 2, 3))
