"""Deformable sampling by `grid_sample`: the definition of the kernels, the exported graph, and the fallback."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detrscope.core.types import Level


def sample_reference(
    value: Tensor, points: Tensor, weights: Tensor, levels: Sequence[Level], point_levels: Sequence[int]
) -> Tensor:
    """Sample level by level, in float32 at least, with standard operators of torch only.

    Bilinear interpolation between the centres of the tokens; a token outside its map counts as zero. A point that is
    not finite gives NaN.

    Args:
        value: [B, S, h, d].
        points: [B, Q, h, P, 2] x, y, 0..1 of the point's own map.
        weights: [B, Q, h, P].
        levels: sizes of the maps; S runs over them in order.
        point_levels: the level of each of the P points.

    Returns:
        [B, Q, h*d] in the type of `value`.
    """
    b, _, h, _, _ = points.shape
    dtype = sum_dtype(value.dtype)
    grid = (2 * points.to(dtype) - 1).permute(0, 2, 1, 3, 4).flatten(0, 1)  # [B*h, Q, P, 2]
    mix = weights.to(dtype).permute(0, 2, 1, 3).flatten(0, 1)[:, None]  # [B*h, 1, Q, P]
    out, start = None, 0
    for index, (height, width) in enumerate(levels):
        of_level = _indices([p for p, level in enumerate(point_levels) if level == index])
        tokens = value[:, start : start + height * width]  # [B, H*W, h, d]
        start += height * width
        if of_level is None:
            continue
        plane = tokens.to(dtype).permute(0, 2, 3, 1).reshape(b * h, -1, height, width)  # [B*h, d, H, W]
        sampled = F.grid_sample(plane, grid[:, :, of_level], align_corners=False)  # [B*h, d, Q, n]
        part = (sampled * mix[..., of_level]).sum(-1)  # [B*h, d, Q]
        out = part if out is None else out + part
    assert out is not None, "there is at least one point"
    return out.reshape(b, h, *out.shape[1:]).permute(0, 3, 1, 2).flatten(2).to(value.dtype)


def forward(
    value: Tensor, points: Tensor, weights: Tensor, sizes: Sequence[int], point_levels: Sequence[int]
) -> Tensor:
    """Sample; the signature of all kernels.

    Args:
        value: [B, S, h, d].
        points: [B, Q, h, P, 2] in `sum_dtype` of the value.
        weights: [B, Q, h, P] in the same type.
        sizes: height and width of each level, one after the other.
        point_levels: the level of each point.

    Returns:
        [B, Q, h*d] in the type of `value`.
    """
    return sample_reference(value, points, weights, _levels(sizes), point_levels).contiguous()


def backward(
    grad: Tensor,
    value: Tensor,
    points: Tensor,
    weights: Tensor,
    sizes: Sequence[int],
    point_levels: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of value, points and weights from `grad` [B, Q, h*d]; computes the output again."""
    inputs = [x.detach().requires_grad_() for x in (value, points, weights)]
    with torch.enable_grad():
        out = sample_reference(inputs[0], inputs[1], inputs[2], _levels(sizes), point_levels)
    grads = torch.autograd.grad(out, inputs, grad)
    return grads[0].contiguous(), grads[1].contiguous(), grads[2].contiguous()


def _levels(sizes: Sequence[int]) -> list[Level]:
    return [Level(*size) for size in zip(sizes[::2], sizes[1::2], strict=True)]


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type of sums of values, and of points and weights: float32 at least."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _indices(points: list[int]) -> slice | list[int] | None:
    """Return consecutive indices as a slice, which an exported graph reads without a copy; None without any."""
    if not points:
        return None
    first, end = points[0], points[-1] + 1
    return slice(first, end) if points == list(range(first, end)) else points
