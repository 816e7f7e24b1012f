"""Edits at door 2 against whole maps edited by hand; records of them rebuild the layer."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from detrscope.core.edits import Bias, Edit, Gain, Swap
from detrscope.core.errors import UserError
from detrscope.core.probe import Probe
from detrscope.core.records import DeformableRecord
from tests.support.deformable_inputs import SITE, SamplingInputs, by_definition, random_inputs

OF = random_inputs(1)  # maps of 35, 12 and 2 tokens; points 0 and 1, 2 to 4, and 5


def looked(of: SamplingInputs, *edits: Edit) -> tuple[Tensor, DeformableRecord]:
    probe = Probe(edits=edits)
    out = of.sample_with(probe)
    record = probe.records[SITE]
    assert isinstance(record, DeformableRecord)
    return out, record


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=2e-6)


def factor(
    heads: object = slice(None),
    queries: object = slice(None),
    points: object = slice(None),
    keys: object = slice(None),
    by: float = 0.0,
) -> Tensor:
    """[1, h, Q, P, S] with a factor where all that is named crosses."""
    gain = torch.ones(1, 2, 11, 6, 49, dtype=torch.float64)
    chosen = torch.zeros_like(gain, dtype=torch.bool)
    index = [torch.arange(n)[i] for n, i in zip(gain.shape[1:], (heads, queries, points, keys), strict=True)]  # type: ignore[index]
    chosen[(0, *torch.meshgrid(*index, indexing="ij"))] = True
    return torch.where(chosen, by, gain)


def test_recording_changes_nothing() -> None:
    plain = OF.sample()
    assert torch.equal(looked(OF)[0], plain)
    assert torch.equal(OF.sample_with(Probe(sites=[])), plain)
    assert torch.equal(looked(OF, Gain("elsewhere", heads=(0,)))[0], plain)


@pytest.mark.parametrize(
    "neutral", [Bias("*", torch.zeros(1)), Gain("*", 1.0), Gain("*", 1.0, queries=(3,), keys=(5,))]
)
def test_neutral_edits_change_nothing(neutral: Edit) -> None:
    close(looked(OF, neutral)[0], OF.sample())


@pytest.mark.parametrize(
    ("edit", "gain"),
    [
        (Gain(SITE, heads=(1,)), factor(heads=[1])),
        (Gain(SITE, 0.25, queries=(0, -1)), factor(queries=[0, 10], by=0.25)),
        (Gain(SITE, points=(4,)), factor(points=[4])),
        (Gain(SITE, levels=(1,)), factor(points=[2, 3, 4])),
        (Gain(SITE, 3.0, heads=(0,), queries=(2, 3), levels=(-1,)), factor([0], [2, 3], [5], by=3.0)),
        (Gain(SITE, levels=(0,), points=(1, 2)), factor(points=[1])),
        (Gain(SITE, keys=(8, 9, 10, 40)), factor(keys=[8, 9, 10, 40])),
        (Gain(SITE, 0.5, heads=(1,), queries=(4,), keys=(9, -1)), factor([1], [4], keys=[9, 48], by=0.5)),
        (
            Gain(SITE, levels=(0,), points=(0,), keys=tuple(range(20))),
            factor(points=[0], keys=list(range(20))),
        ),
        (Gain(SITE, keys=()), factor(keys=[])),
    ],
)
def test_gains_equal_gains_on_dense_maps(edit: Gain, gain: Tensor) -> None:
    out, record = looked(OF, edit)
    close(out, by_definition(OF, gain))
    close(record.output(), out)


def test_gains_multiply_where_they_overlap() -> None:
    edits = (
        Gain(SITE, 0.5, keys=tuple(range(30))),
        Gain(SITE, 0.0, heads=(0,), keys=(10, 11, 12)),
        Gain(SITE, 2.0, queries=(1, 2), points=(0,), keys=(3, 10)),
        Gain(SITE, 0.3, levels=(2,)),
    )
    gain = (
        factor(keys=list(range(30)), by=0.5)
        * factor([0], keys=[10, 11, 12])
        * factor(queries=[1, 2], points=[0], keys=[3, 10], by=2.0)
        * factor(points=[5], by=0.3)
    )
    for order in itertools.islice(itertools.permutations(edits), 0, None, 5):
        out, record = looked(OF, *order)
        close(out, by_definition(OF, gain))
        close(record.output(), out)


def test_muted_key_is_not_read() -> None:
    hidden = (8, 9, 10, 41)
    _, record = looked(OF, Gain(SITE, keys=hidden))
    _, whole = looked(OF)
    assert (record.rows()[..., list(hidden)] == 0).all()
    others = [s for s in range(49) if s not in hidden]
    assert torch.equal(record.rows()[..., others], whole.rows()[..., others])  # nothing renormalised
    other = OF.value.clone()
    other[:, list(hidden)] = 1e6
    assert torch.equal(
        looked(
            SamplingInputs(other, OF.points, OF.scores, OF.levels, OF.point_levels), Gain(SITE, keys=hidden)
        )[0],
        looked(OF, Gain(SITE, keys=hidden))[0],
    )


@pytest.mark.parametrize("shape", [(6,), (11, 1), (2, 1, 6), (2, 2, 11, 6)])
def test_bias_is_added_to_scores(shape: tuple[int, ...]) -> None:
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    out, record = looked(OF, Bias(SITE, scores), Bias(SITE, -0.5 * scores))
    biased = OF.scores + 0.5 * scores.expand(2, 2, 11, 6).transpose(1, 2)
    close(out, by_definition(SamplingInputs(OF.value, OF.points, biased, OF.levels, OF.point_levels)))
    close(record.output(), out)


def test_weight_of_a_hidden_point_goes_to_the_others() -> None:
    hide = torch.tensor([0, 0, -math.inf, -math.inf, -math.inf, 0])
    _, record = looked(OF, Bias(SITE, hide))
    assert (record.weights[..., 2:5] == 0).all()
    torch.testing.assert_close(record.weights.sum(-1), torch.ones(2, 2, 11))


@pytest.mark.parametrize("what", ["value", "points", "weights"])
def test_swap_replaces_one_tensor(what: str) -> None:
    other = random_inputs(7)
    out, record = looked(OF, Gain(SITE, 0.5, levels=(0,)), Swap(SITE, what, getattr(looked(other)[1], what)))  # type: ignore[arg-type]
    parts = {name: other if name == what else OF for name in ("value", "points", "weights")}
    mixed = SamplingInputs(
        parts["value"].value, parts["points"].points, parts["weights"].scores, OF.levels, OF.point_levels
    )
    close(out, by_definition(mixed, factor(points=[0, 1], by=0.5)))
    close(record.output(), out)
    assert torch.equal(looked(OF, *(Swap(SITE, w, getattr(looked(OF)[1], w)) for w in parts))[0], OF.sample())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            Bias(SITE, torch.zeros(7)),
            r"bias at 'decoder.0.cross': \[7\] does not broadcast to \[2, 2, 11, 6\]",
        ),
        (Gain(SITE, heads=(2,)), "head 2 is outside 0..1"),
        (Gain(SITE, queries=(11,)), "query 11 is outside 0..10"),
        (Gain(SITE, points=(6,)), "point 6 is outside 0..5"),
        (Gain(SITE, levels=(3,)), "level 3 is outside 0..2"),
        (Gain(SITE, keys=(49,)), "key 49 is outside 0..48"),
        (Swap(SITE, "key", torch.zeros(1)), "swap at '.*': no key there; valid: points, value, weights"),
        (
            Swap(SITE, "points", torch.zeros(1)),
            r"swap of the points at .*: expected \[2, 2, 11, 6, 2\], found \[1\]",
        ),
    ],
)
def test_edits_that_do_not_fit_are_refused(edit: Edit, message: str) -> None:
    with pytest.raises(UserError, match=message):
        looked(OF, edit)


def test_edits_of_bfloat16_are_exact() -> None:
    of = SamplingInputs(OF.value.bfloat16(), OF.points, OF.scores, OF.levels, OF.point_levels)
    out, record = looked(of, Gain(SITE, 0.5, queries=(4,), keys=(9, 10)), Gain(SITE, heads=(0,), levels=(2,)))
    expected = by_definition(of, factor(queries=[4], keys=[9, 10], by=0.5) * factor([0], points=[5]))
    assert out.dtype == torch.bfloat16
    assert record.weights.dtype == record.points.dtype == torch.float32
    torch.testing.assert_close(out.double(), expected, rtol=0.01, atol=0.005)
    torch.testing.assert_close(record.output(), out, rtol=0.01, atol=0.005)
