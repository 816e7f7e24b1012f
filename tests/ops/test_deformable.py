"""Deformable sampling: the reference against a plain loop, the CPU kernel against the reference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detrscope.core.types import Level
from detrscope.ops.deformable import sample_reference, use_kernel
from detrscope.ops.kernels import deformable_numba
from detrscope.ops.kernels import threads as threads_module
from detrscope.ops.softmax import softmax_rows
from tests.support.deformable_inputs import SamplingInputs, by_definition, gradients, random_inputs

levels = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4)


@st.composite
def looks(draw: st.DrawFn) -> SamplingInputs:
    """Any number of maps, of points on each of them (also none) in any order, of queries (also none)."""
    maps = draw(levels)
    return random_inputs(
        draw(st.integers(0, 10_000)),
        images=draw(st.integers(1, 3)),
        levels=tuple(maps),
        queries=draw(st.sampled_from([0, 1, 7, 8, 9, 33])),
        heads=draw(st.integers(1, 3)),
        point_levels=tuple(draw(st.lists(st.integers(0, len(maps) - 1), min_size=1, max_size=6))),
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kernel", ["reference", "numba"])
def test_kernels_equal_the_definition(kernel: str, seed: int) -> None:
    of = random_inputs(seed, point_levels=(2, 0, 1, 0, 2))
    with use_kernel(kernel):
        torch.testing.assert_close(of.sample().double(), by_definition(of), rtol=1e-5, atol=2e-6)


@settings(max_examples=40, deadline=None)
@given(looks())
def test_kernel_equals_reference_on_any_shape(of: SamplingInputs) -> None:
    found, expected = both(of)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("kernel", ["reference", "numba"])
def test_gradcheck(kernel: str) -> None:
    of = random_inputs(1, images=1, queries=3, point_levels=(0, 1, 1)).to(Tensor.double)
    inputs = [x.requires_grad_() for x in of.tensors]
    with use_kernel(kernel):
        assert torch.autograd.gradcheck(of.sample, inputs)


def test_double_equals_reference_to_the_last_digits() -> None:
    for ours, theirs in zip(*both(random_inputs(2).to(Tensor.double)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def both(of: SamplingInputs) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    results = []
    for kernel in ("numba", "reference"):
        with use_kernel(kernel):
            results.append(gradients(of))
    return results[0], results[1]


class TestBfloat16:
    def test_forward_is_the_exact_sum_rounded_to_the_nearest(self) -> None:
        of = random_inputs(4, queries=60)
        rounded = of.value.bfloat16()
        with use_kernel("numba"):
            found = of.sample(value=rounded)
            exact = of.sample(value=rounded.float())
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, exact.bfloat16())

    def test_ties_go_to_even_and_nan_stays(self) -> None:
        step = 1 / 128  # between bfloat16s from 1 to 2; the points lie in the middle of two neighbours
        found = middles(torch.tensor([1, 1 + step, 1 + step, 1 + 2 * step], dtype=torch.bfloat16))
        assert found.tolist() == [1.0, 1 + 2 * step]
        assert middles(torch.tensor([1, math.nan, 1, math.inf], dtype=torch.bfloat16))[0].isnan()

    @pytest.mark.parametrize("channels", [8, 5])
    def test_gradients_are_rounded_from_float32(self, channels: int) -> None:
        of = random_inputs(5, channels=channels)
        rounded = SamplingInputs(of.value.bfloat16(), of.points, of.scores, of.levels, of.point_levels)
        with use_kernel("numba"):
            found = gradients(rounded)
        with use_kernel("reference"):
            expected = gradients(rounded)
        assert [x.dtype for x in found] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
        for ours, theirs in zip(found, expected, strict=True):
            scale = theirs.float().abs().max()
            torch.testing.assert_close(ours.float() / scale, theirs.float() / scale, rtol=0.01, atol=1e-4)


def middles(row: Tensor) -> Tensor:
    """What is found between tokens 0 and 1, and between 2 and 3, of a map of one row of four."""
    points = torch.tensor([[0.25, 0.5], [0.75, 0.5]]).view(1, 2, 1, 1, 2)
    of = SamplingInputs(
        row.view(1, 4, 1, 1).repeat(1, 1, 1, 8), points, torch.zeros(1, 2, 1, 1), (Level(1, 4),), (0,)
    )
    with use_kernel("numba"):
        return of.sample()[0, :, 0]


class TestPlaces:
    """Where points may lie."""

    def at(self, *places: tuple[float, float]) -> SamplingInputs:
        """One query of one head for each place, on a map of 2 x 4."""
        points = torch.tensor(places).view(1, -1, 1, 1, 2)
        value = torch.arange(1.0, 9).view(1, 8, 1, 1).repeat(1, 1, 1, 8)
        return SamplingInputs(value, points, torch.zeros(1, len(places), 1, 1), (Level(2, 4),), (0,))

    @pytest.mark.parametrize("kernel", ["reference", "numba"])
    def test_centres_borders_and_outside(self, kernel: str) -> None:
        places = [
            (0.125, 0.25),
            (0.875, 0.75),
            (0, 0),
            (1, 1),
            (-0.125, 0.25),
            (1.125, 0.75),
            (0.5, -0.25),
            (7, -9),
        ]
        with use_kernel(kernel):
            found = self.at(*places).sample()[0, :, 0]
        # a centre; a corner of the map has a quarter of its token; half a token outside nothing is left
        assert found.tolist() == pytest.approx([1, 8, 0.25, 2, 0, 0, 0, 0])

    @pytest.mark.parametrize("far", [1e9, 3e9, -1e19, 1e30, -1e37])
    def test_points_far_outside_are_zero(self, far: float) -> None:
        of = self.at((far, 0.5), (0.5, far), (far, far))
        for found, expected in zip(*both(of), strict=True):
            assert torch.equal(found, expected)
            assert found.isfinite().all()
        with use_kernel("numba"):
            assert (gradients(of)[0] == 0).all()

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_nonfinite_point_makes_only_its_query_nan(self, bad: float) -> None:
        of = self.at((bad, 0.5), (0.5, 0.5), (0.5, bad), (bad, bad))
        found, expected = both(of)
        assert torch.equal(found[0].isnan(), expected[0].isnan())
        assert found[0].isnan().all(-1)[0].tolist() == [True, False, True, True]
        assert torch.equal(found[1], expected[1])  # the gradient of the value: none from such a point
        for gradient in found[2:]:
            assert gradient[:, 1].isfinite().all()
        assert found[2][0, [0, 2, 3]].isnan().any(-1).all()

    def test_values_of_other_maps_are_not_read(self) -> None:
        of = self.at((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 2.0))
        infinite = torch.full((1, 20, 1, 8), math.inf)
        infinite[:, 6:14] = of.value
        point_levels, maps = (1,), (Level(2, 3), Level(2, 4), Level(3, 2))
        of = SamplingInputs(infinite, of.points, of.scores, maps, point_levels)
        with use_kernel("numba"):
            assert of.sample().isfinite().all()


class TestDeterminism:
    """The same to the last bit, however often, on however many threads, started however."""

    @pytest.fixture
    def of(self) -> SamplingInputs:
        return random_inputs(6, images=3, queries=150, heads=4)

    @pytest.fixture(autouse=True)
    def threads_as_before(self) -> Iterator[None]:
        before = torch.get_num_threads()
        yield
        torch.set_num_threads(before)

    def run(self, of: SamplingInputs, threads: int) -> tuple[Tensor, ...]:
        torch.set_num_threads(threads)
        with use_kernel("numba"):
            return gradients(of)

    def test_result_is_independent_of_threads(
        self, of: SamplingInputs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(deformable_numba, "WORTH_A_THREAD", 0)
        once = self.run(of, 1)
        for threads in (1, 2, 3, 16):
            for ours, first in zip(self.run(of, threads), once, strict=True):
                assert torch.equal(ours, first)

    def test_runs_without_torchs_threads(self, of: SamplingInputs, monkeypatch: pytest.MonkeyPatch) -> None:
        once = self.run(of, 1)
        monkeypatch.setattr(deformable_numba, "WORTH_A_THREAD", 0)
        monkeypatch.setattr(threads_module, "openmp_launcher", lambda: None)
        for ours, first in zip(self.run(of, 3), once, strict=True):
            assert torch.equal(ours, first)

    def test_called_from_several_threads_at_once(self, of: SamplingInputs) -> None:
        expected = self.run(of, 2)
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(lambda _: gradients(of), range(8)):
                assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_large_images_use_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    of = random_inputs(10)
    expected = both(of)[1]
    monkeypatch.setattr(deformable_numba, "MAX_BYTES", 100)
    monkeypatch.setattr(deformable_numba, "_run", None)
    for ours, theirs in zip(both(of)[0], expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_strided_inputs_and_gradients() -> None:
    of = random_inputs(7)
    strided = of.to(lambda x: x.transpose(0, -1).contiguous().transpose(0, -1))
    assert not strided.points.is_contiguous()
    for ours, theirs in zip(both(strided)[0], both(of)[0], strict=True):
        assert torch.equal(ours, theirs)
    with use_kernel("numba"):
        inputs = [x.clone().requires_grad_() for x in of.tensors]
        of.sample(*inputs).sum().backward()  # a gradient without memory of its own
        assert inputs[0].grad is not None and inputs[0].grad.isfinite().all()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck looks at the gradients of what is no leaf
def test_is_one_operator_of_torch() -> None:
    of = random_inputs(8, images=1, queries=4, channels=8)
    value, points, scores = (x.requires_grad_() for x in of.tensors)
    sizes = [side for level in of.levels for side in level]
    inputs = (
        value,
        points,
        scores.softmax(-1).detach().requires_grad_(),
        sizes,
        list(of.point_levels),
        "numba",
    )
    torch.library.opcheck(torch.ops.detrscope.deformable_sample.default, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(dtype: torch.dtype) -> None:
    of = random_inputs(9)
    with torch.autocast("cpu", torch.bfloat16):
        found = of.sample(value=of.value.to(dtype), scores=of.scores.bfloat16())
    assert found.dtype == dtype
    expected = sample_reference(
        of.value.to(dtype).float(),
        of.points,
        of.scores.bfloat16().float().softmax(-1),
        of.levels,
        of.point_levels,
    )
    torch.testing.assert_close(
        found.float(), expected, rtol=0.01 if dtype == torch.bfloat16 else 1e-5, atol=1e-5
    )


def test_softmax_of_short_rows_equals_torchs() -> None:
    for width in (1, 4, 15, 16, 17):
        x = torch.randn(40, 9, 8, width, generator=torch.Generator().manual_seed(width)) * 5
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        found, expected = softmax_rows(ours, torch.float32), theirs.softmax(-1)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
        weight = torch.arange(width) + 1.0
        (found * weight).square().sum().backward()
        (expected * weight).square().sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=2e-4)
        assert softmax_rows(x.bfloat16(), torch.float32).dtype == torch.float32
