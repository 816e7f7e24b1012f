"""Linear layers by oneDNN: the numbers of float64 and autograd, whatever the shape, and standard ones when exported."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detrscope.ops import linear as module
from detrscope.ops.kernels.native_precision import has_onednn
from detrscope.ops.linear import linear, linear_pair

SHAPES = [(5,), (3, 5), (2, 4, 5), (2, 0, 5), (0, 5), (4, 1, 3, 5)]


@pytest.fixture(autouse=True, params=["oneDNN", "torch"])
def product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take float32 products from either, whichever is faster on this machine."""
    if request.param == "oneDNN" and not has_onednn():
        pytest.skip("this torch has no oneDNN")
    chosen = request.param == "oneDNN"
    monkeypatch.setattr(module, "onednn_multiplies", lambda dtype: chosen and dtype == torch.float32)


def parts(shape: tuple[int, ...], outputs: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    return x, torch.randn(outputs, 5, generator=generator), torch.randn(outputs, generator=generator)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_equal_float64(shape: tuple[int, ...], relu: bool) -> None:
    leaves = [t.requires_grad_() for t in parts(shape)]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    y = linear(*leaves, relu=relu)
    expected = F.linear(*exact)
    expected = expected.relu() if relu else expected
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    away = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(y, leaves, away)
    wanted = torch.autograd.grad(expected, exact, away.double())
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(linear(*leaves, relu=relu), y, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("outputs", [2, 9])
def test_gradients_of_strided_inputs_and_of_gradients(outputs: int) -> None:
    x, weight, bias = parts((3, 5), outputs)
    x = x.t().contiguous().t().requires_grad_()
    weight.requires_grad_(), bias.requires_grad_()

    def second(product: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        (first,) = torch.autograd.grad(product(x, weight, bias).pow(2).sum(), x, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), (x, weight))

    for found, wanted in zip(second(linear), second(F.linear), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_only_needed_gradients_are_computed() -> None:
    x, weight, _ = parts((3, 5))
    weight.requires_grad_()
    y = linear(x, weight, None)
    torch.testing.assert_close(y, x @ weight.t())
    y.sum().backward()
    assert x.grad is None and weight.grad is not None
    torch.testing.assert_close(weight.grad, x.sum(0).expand(7, -1))


def test_two_linear_in_parts_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 21, 6, generator=generator)
    first, second = torch.randn(8, 6, generator=generator), torch.randn(6, 8, generator=generator)
    biases = torch.randn(8, generator=generator), torch.randn(6, generator=generator)
    expected = F.linear(F.linear(x, first, biases[0]).relu(), second, biases[1])
    for rows in (4, 42, 1000):
        monkeypatch.setattr(module, "ROWS", rows)
        found = linear_pair(x, first, biases[0], second, biases[1])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_autocast_computes_in_its_type() -> None:
    x, weight, bias = parts((3, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            quiet = linear(x, weight, bias, relu=True)
        learning = linear(x, weight.requires_grad_(), bias, relu=True)
        assert quiet.dtype == learning.dtype == F.linear(x, weight, bias).dtype == torch.bfloat16
    expected = F.linear(x, weight, bias).relu()
    for y in (quiet, learning):
        torch.testing.assert_close(y.float(), expected, atol=0.05, rtol=0.02)


def test_other_types_are_left_to_torch() -> None:
    x, weight, bias = (t.double() for t in parts((3, 5)))
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
    assert torch.autograd.gradcheck(
        lambda *t: linear(*t, relu=True), [t.requires_grad_() for t in (x, weight, bias)]
    )


def test_exported_graph_has_standard_operators_only() -> None:
    class Layer(torch.nn.Module):
        def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return linear(x, weight, bias, relu=True)

    graph = torch.export.export(Layer(), parts((3, 5))).graph
    assert not [node for node in graph.nodes if "mkldnn" in str(node.target)]
