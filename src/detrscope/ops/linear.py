"""Linear layers by oneDNN where it is clearly faster than torch, and a feed-forward without a whole hidden map."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from detrscope.ops.convolution import (
    autocast_convolution,
    convolution_dtype,
    convolution_is_learning,
    may_leave_torch,
)
from detrscope.ops.kernels.native_precision import onednn_multiplies

ROWS = 2048  # tokens of a hidden map at once: few enough for the cache, enough for the matrix product


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
    """Compute `relu(x @ weight^T + bias)`, or without the ReLU.

    Args:
        x: [..., I].
        weight: [O, I].
        bias: [O] or None.
        relu: whether a ReLU follows.

    Returns:
        [..., O].
    """
    if _may_use_onednn(x, weight, bias):
        if torch.is_autocast_enabled("cpu"):
            x, weight, bias = autocast_convolution(x, weight, bias)
        return _multiply(x, weight, bias, relu)
    if _may_learn_by_onednn(x, weight):
        return cast(Tensor, _Linear.apply(x, weight, bias, relu))
    y = F.linear(x, weight, bias)
    return F.relu(y) if relu else y


def linear_pair(
    x: Tensor, expand: Tensor, expand_bias: Tensor, contract: Tensor, contract_bias: Tensor
) -> Tensor:
    """Compute linear, ReLU, linear over many tokens, `ROWS` at a time, so that no hidden map is ever whole.

    Args:
        x: [..., D].
        expand: [H, D].
        expand_bias: [H].
        contract: [D, H].
        contract_bias: [D].

    Returns:
        [..., D].
    """
    parts = [
        linear(linear(rows, expand, expand_bias, relu=True), contract, contract_bias)
        for rows in torch.split(x.flatten(0, -2), ROWS)
    ]
    out = torch.cat(parts) if len(parts) > 1 else parts[0]  # [n, D]
    return out.view(*x.shape[:-1], -1)


def _may_use_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether oneDNN's linear layer applies now: on a CPU, without gradients or export."""
    return (
        may_leave_torch(x)
        and not convolution_is_learning(x, weight, bias)
        and onednn_multiplies(convolution_dtype(x))
    )


def _may_learn_by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Return whether to take the product and its gradients from oneDNN; for bf16, torch does so itself."""
    fits = x.dtype == weight.dtype == torch.float32 and x.dim() > 1 and x.numel() > 0
    free = may_leave_torch(x) and not torch.is_autocast_enabled("cpu")
    return fits and free and convolution_is_learning(x, weight) and onednn_multiplies(x.dtype)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    return cast(
        Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu" if relu else "none", [], "")
    )


class _Linear(torch.autograd.Function):
    """Linear layer whose gradients are oneDNN products too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        y = _multiply(x, weight, bias, relu)
        ctx.save_for_backward(x, weight, y if relu else None)
        ctx.has_bias = bias is not None
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        (grad,) = grads  # [..., O]
        if y is not None:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        rows = grad.flatten(0, -2)  # [n, O]
        grad_x = linear(grad, weight.t(), None) if ctx.needs_input_grad[0] else None
        grad_weight = _outer(rows, x.flatten(0, -2)) if ctx.needs_input_grad[1] else None
        grad_bias = rows.sum(0) if ctx.has_bias and ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias, None


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """Compute `a^T @ b`: [n, O], [n, I] -> [O, I]. The first factor is copied, so it should be the narrower one."""
    if a.shape[1] > b.shape[1]:
        return linear(b.t(), a.t(), None).t()
    return linear(a.t(), b.t(), None)
