"""What the machine computes fast is asked, whatever it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detrscope.ops import convolution, linear
from detrscope.ops.kernels import native_precision, speed_choices
from detrscope.ops.kernels.native_precision import Cost

CPU = torch.device("cpu")
BASE = Cost(1.0, 2.0)


@pytest.fixture(autouse=True)
def cleared_caches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(speed_choices, "_ANSWERS", {})
    native_precision._warn_once.cache_clear()
    yield
    native_precision._warn_once.cache_clear()


def costs(monkeypatch: pytest.MonkeyPatch, bf16: Cost) -> None:
    table = {torch.float32: BASE, torch.bfloat16: bf16, torch.float16: Cost(3.0, 3.0)}
    monkeypatch.setattr(native_precision, "precision_costs", lambda dtype: (BASE, table[dtype]))


@pytest.mark.parametrize(
    ("bf16", "native"),
    [
        (Cost(0.3, 0.6), True),
        (Cost(80.0, 14.0), False),  # emulated
        (Cost(0.3, 14.0), False),  # products alone are not enough
        (Cost(0.95, 1.9), False),  # no gain
        (Cost(float("inf"), 1.0), False),  # no such operator
    ],
)
def test_native_precisions_are_faster_than_float32(
    bf16: Cost, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs(monkeypatch, bf16)
    assert native_precision.is_native_precision(torch.bfloat16) is native
    assert native_precision.fastest_precision(CPU) == ("bf16" if native else "fp32")
    assert native_precision.is_native_precision(torch.float32)


def test_emulation_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(native_precision.log, "warning", lambda text, *values: logged.append(text % values))
    costs(monkeypatch, Cost(79.6, 10.0))
    for _ in range(2):
        native_precision.warn_if_precision_emulated("bf16", CPU)
        native_precision.warn_if_precision_emulated("fp32", CPU)
        native_precision.warn_if_precision_emulated("bf16", torch.device("cuda"))
    assert logged == [
        "precision bf16: this CPU emulates it, up to 80 times slower than fp32; precision auto selects a fast one"
    ]


def test_measured_costs_are_positive_and_cached() -> None:
    costs = native_precision.precision_costs(torch.float32)
    assert costs is native_precision.precision_costs(torch.float32)
    assert all(0 < cost.product < 1 and 0 < cost.convolution < 1 for cost in costs)


def test_what_is_compared_is_timed_in_turns() -> None:
    order: list[str] = []
    native_precision._seconds(lambda: order.append("a"), lambda: order.append("b"))
    assert order[:6] == ["a", "b", "a", "b", "a", "b"]


@pytest.mark.parametrize(
    ("onednn", "torchs", "chosen"), [(1, 2, True), (1, 1.2, False), (1, 1, False), (2, 1, False)]
)
def test_onednn_multiplies_only_where_it_is_clearly_faster(
    onednn: float, torchs: float, chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native_precision.has_onednn():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(speed_choices, "_ANSWERS", {})
    monkeypatch.setattr(native_precision, "_seconds", lambda *_: [onednn, torchs])
    assert native_precision.onednn_multiplies(torch.float32) is chosen


def test_failing_operators_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Tensor:
        raise RuntimeError("could not create a primitive")

    if not native_precision.has_onednn():
        pytest.skip("this torch has no oneDNN whose operators could fail")
    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", fails)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", fails)
    assert not native_precision.onednn_convolves(torch.float32) and not native_precision.onednn_multiplies(
        torch.float32
    )
    conv, norm = torch.nn.Conv2d(4, 4, 3), torch.nn.BatchNorm2d(4).eval()
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            convolution.convolution_and_norm(x, conv, norm), norm(conv(x)), rtol=1e-5, atol=1e-5
        )
        y = torch.randn(5, 4)
        weight = torch.randn(3, 4)
        torch.testing.assert_close(linear.linear(y, weight, None), F.linear(y, weight))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types_are_left_to_torch(dtype: torch.dtype) -> None:
    assert not native_precision.onednn_convolves(dtype) and not native_precision.onednn_multiplies(dtype)


def test_disabled_onednn_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(1, 4, 8, 8), torch.randn(4, 4, 3, 3)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False, raising=False)
    assert not native_precision.has_onednn()
    assert not convolution.convolution_may_use_onednn(x, weight)
