"""Dropout: the share, the scale, the gradient, and that torch's seed decides."""

from __future__ import annotations

import pytest
import torch

from detrscope.ops.dropout import dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1000, 1003), (7,), (3, 1, 333333)])
def test_share_of_zeros_and_scale(probability: float, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    out = dropout(torch.ones(shape), probability)
    assert set(out.unique().tolist()) <= {0.0, float(torch.ones(()) * (1 / (1 - probability)))}
    if out.numel() > 1000:
        share = float((out == 0).double().mean())
        assert (
            abs(share - probability) < 5 * (probability * (1 - probability) / out.numel()) ** 0.5 + 1 / 65536
        )
        rows = out.flatten()[: out.numel() // 8 * 8].view(-1, 8)
        assert abs(float((rows == 0).double().mean(0).std())) < 0.003, "the lanes of a draw differ"


def test_masks_follow_torchs_seed() -> None:
    x = torch.randn(50, 50)
    torch.manual_seed(3)
    first, second = dropout(x, 0.3), dropout(x, 0.3)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(x, 0.3)) and not torch.equal(first, second)


def test_gradient_is_zero_where_dropped() -> None:
    x = torch.randn(40, 40, requires_grad=True)
    out = dropout(x, 0.25)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (out != 0) / 0.75)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_keeps_the_dtype(dtype: torch.dtype) -> None:
    assert dropout(torch.ones(8, dtype=dtype), 0.5).dtype == dtype
    x = torch.ones(8)
    assert dropout(x, 0.0) is x
