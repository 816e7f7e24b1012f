"""Muon for hidden matrices and convolutions: momentum made orthogonal (Jordan 2024, kellerjordan.github.io/posts/muon).

torch.optim.Muon takes matrices only, one at a time. A small network has convolutions, and dozens of small matrices of
few shapes: here those of one shape are iterated together, by one batched product instead of dozens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from detrscope.ops.kernels.native_precision import multiplies_fast

# Coefficients of the quintic iteration x -> a x + b x^3 + c x^5 that drives singular values to about 1.
A, B, C = 3.4445, -4.7750, 2.0315
WIDE = 3  # width over height from which products of the small side alone are cheaper


class Muon(torch.optim.AdamW):
    """Nesterov momentum whose update is replaced by the nearest orthogonal matrix, found by Newton-Schulz iteration.

    It applies to groups with `orthogonal: True` (matrices, convolutions); the others are AdamW's. The update is scaled
    by 0.2 * sqrt(larger side), so that its root mean square is that of AdamW and learning rates carry over
    (Moonlight, arXiv:2502.16982, section 2.2).

    Args:
        groups: parameter groups, each with the key `orthogonal`.
        momentum: momentum of the running average of the gradient, for the orthogonal groups.
        iterations: number of Newton-Schulz iterations.
        fused: whether AdamW updates in one fused kernel.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        momentum: float = 0.95,
        iterations: int = 4,
        fused: bool = False,
    ) -> None:
        self.momentum = momentum
        self.iterations = iterations
        super().__init__(groups, fused=fused)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["orthogonal"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["orthogonal"]:
                self._update(group)
        return loss

    def _update(self, group: dict[str, Any]) -> None:
        batches: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                update = self._momentum(parameter).flatten(1)
                batches.setdefault((update.shape[0], update.shape[1]), []).append((parameter, update))
        for (rows, columns), batch in batches.items():
            updates = orthogonalise(torch.stack([update for _, update in batch]), self.iterations)
            scale = group["lr"] * 0.2 * max(rows, columns) ** 0.5
            for (parameter, _), update in zip(batch, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(update.view(parameter.shape), alpha=scale)

    def _momentum(self, parameter: Tensor) -> Tensor:
        grad = parameter.grad
        assert grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(grad)
            state["step"] = torch.zeros(())  # AdamW expects one in every state that it loads
        state["momentum"].lerp_(grad, 1 - self.momentum)
        return grad.lerp(state["momentum"], self.momentum)


def iteration_dtype(device: torch.device) -> torch.dtype:
    """Return bf16, as published, where the device multiplies it faster than float32; else float32."""
    if device.type == "cpu" and not multiplies_fast(torch.bfloat16):
        return torch.float32
    return torch.bfloat16


def orthogonalise(matrices: Tensor, steps: int) -> Tensor:
    """Approximate U V^T of each matrix's singular value decomposition U S V^T: [n, rows, columns]."""
    x = matrices.to(iteration_dtype(matrices.device))
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    x = x / (matrices.flatten(1).norm(dim=1).view(-1, 1, 1).to(x.dtype) + 1e-7)
    if x.dtype == torch.float32 and x.shape[2] >= WIDE * x.shape[1]:
        x = _iterate_on_gram(x, steps)
    else:
        for _ in range(steps):
            x = torch.baddbmm(x, _polynomial(torch.bmm(x, x.mT)), x, beta=A)
    return (x if wide else x.mT).to(matrices.dtype)


def _polynomial(square: Tensor) -> Tensor:
    """Return B s + C s^2 of each matrix s."""
    return torch.baddbmm(square, square, square, beta=B, alpha=C)


def _iterate_on_gram(x: Tensor, steps: int) -> Tensor:
    """Iterate wide matrices with products of the small side only, but for the first and the last one.

    Every factor is a polynomial of s = x x^T: factors commute, and s after a step is p s p. Rounding adds up more than
    it does in the plain iteration, too much for bf16.
    """
    square = torch.bmm(x, x.mT)
    product: Tensor | None = None
    for step in range(steps):
        factor = _polynomial(square)
        factor.diagonal(dim1=1, dim2=2).add_(A)
        product = factor if product is None else torch.bmm(factor, product)
        if step + 1 < steps:
            square = torch.bmm(torch.bmm(factor, square), factor)
    return x if product is None else torch.bmm(product, x)
