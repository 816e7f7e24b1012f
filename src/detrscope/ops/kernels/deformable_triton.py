"""Deformable sampling on a GPU, in Triton, which brings its own compiler.

A program handles a few queries of one head of one image. All programs add to the gradient of the value atomically, in
float32 and in no fixed order. With `TRITON_INTERPRET=1` the same code runs without a GPU, slowly; tests do that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from detrscope.core.errors import UserError

TILE = 256  # channels of all queries of a program, which is one warp: 8 queries of 32 channels
LARGEST: tl.constexpr = tl.constexpr(3.4028234e38)  # finite float32


def jit(function: Callable[..., None]) -> Any:
    """Compile with Triton, whose decorator has no types."""
    return triton.jit(function)


def forward(
    value: Tensor, points: Tensor, weights: Tensor, sizes: Sequence[int], point_levels: Sequence[int]
) -> Tensor:
    """Sample [B, S, h, d] as `deformable_reference.forward` does; values are float32, bfloat16 or float16."""
    value, points, weights = value.contiguous(), points.contiguous(), weights.contiguous()
    out = value.new_empty(value.shape[0], points.shape[1], value.shape[2] * value.shape[3])
    maps = _maps(tuple(sizes), tuple(point_levels), value.device)
    _launch(forward_kernel, (value, points, weights, maps, out), value, points)
    return out


def backward(
    grad: Tensor,
    value: Tensor,
    points: Tensor,
    weights: Tensor,
    sizes: Sequence[int],
    point_levels: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of value, points and weights from `grad` [B, Q, h*d], that of the output.

    Raises:
        UserError: torch is set to deterministic algorithms.
    """
    if torch.are_deterministic_algorithms_enabled():
        raise UserError(
            "deformable attention by 'triton' adds gradients in no fixed order and torch is set to deterministic"
            " algorithms; train on the CPU or without them"
        )
    value, points, weights = value.contiguous(), points.contiguous(), weights.contiguous()
    total = torch.zeros(value.shape, dtype=torch.float32, device=value.device)
    grads = total, torch.empty_like(points), torch.empty_like(weights)
    maps = _maps(tuple(sizes), tuple(point_levels), value.device)
    _launch(backward_kernel, (grad.contiguous(), value, points, weights, maps, *grads), value, points)
    return total.to(value.dtype), grads[1], grads[2]


def _launch(kernel: Any, tensors: tuple[Tensor, ...], value: Tensor, points: Tensor) -> None:
    images, tokens, heads, channels = value.shape
    queries, per_head = points.shape[1], points.shape[3]
    padded = triton.next_power_of_2(channels)
    block = max(1, TILE // padded)
    grid = (triton.cdiv(queries, block), heads, images)
    if 0 not in grid:
        shape = (tokens, queries, heads, channels, per_head)
        kernel[grid](*tensors, *shape, QUERIES=block, CHANNELS=padded, num_warps=1, enable_fp_fusion=True)


@lru_cache(maxsize=256)
def _maps(sizes: tuple[int, ...], point_levels: tuple[int, ...], device: torch.device) -> Tensor:
    """Return width, height and first token of the map of each point: [P, 3] int32."""
    starts = [0, *accumulate(h * w for h, w in zip(sizes[::2], sizes[1::2], strict=True))]
    rows = [(sizes[2 * n + 1], sizes[2 * n], starts[n]) for n in point_levels]
    return torch.tensor(rows, dtype=torch.int32, device=device)


@jit
def _locate(
    points: tl.tensor, weights: tl.tensor, maps: tl.tensor, at: tl.tensor, p: tl.tensor, valid: tl.tensor
) -> tl.tensor:
    """Locate point p of each query: its map, the token up and left of it, the offset from that, its weight."""
    width, height, start = tl.load(maps + 3 * p), tl.load(maps + 3 * p + 1), tl.load(maps + 3 * p + 2)
    x = tl.load(points + 2 * at, mask=valid, other=0.0) * width - 0.5
    y = tl.load(points + 2 * at + 1, mask=valid, other=0.0) * height - 0.5
    weight = tl.load(weights + at, mask=valid, other=0.0)
    finite = (tl.abs(x) <= LARGEST) & (tl.abs(y) <= LARGEST)
    x = tl.where(x > -2.0, x, -2.0)
    x = tl.where(x < width, x, width)
    y = tl.where(y > -2.0, y, -2.0)
    y = tl.where(y < height, y, height)
    left, up = tl.floor(x), tl.floor(y)
    right = tl.where(finite, x - left, float("nan"))
    down = tl.where(finite, y - up, float("nan"))
    return width, height, start, left.to(tl.int32), up.to(tl.int32), right, down, weight


@jit
def _corner(
    width: tl.tensor,
    height: tl.tensor,
    start: tl.tensor,
    column: tl.tensor,
    row: tl.tensor,
    valid: tl.tensor,
    step: tl.tensor,
    channel: tl.tensor,
    channels: tl.tensor,
) -> tl.tensor:
    """Return the offsets [Q, D] of each query's token at a column and a row, and a mask of those inside the map."""
    inside = valid & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    offset = (start + row * width + column).to(tl.int64) * step
    return offset[:, None] + channel[None, :], inside[:, None] & (channel < channels)[None, :]


@jit
def forward_kernel(
    value: tl.tensor,
    points: tl.tensor,
    weights: tl.tensor,
    maps: tl.tensor,
    out: tl.tensor,
    tokens: tl.tensor,
    queries: tl.tensor,
    heads: tl.tensor,
    channels: tl.tensor,
    per_head: tl.tensor,
    QUERIES: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Sample a block of queries of one head of one image."""
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    channel = tl.arange(0, CHANNELS)
    valid = query < queries
    row = (image * queries + query) * heads + head
    origin = value + (image * tokens * heads + head) * channels
    step = heads * channels
    total = tl.zeros([QUERIES, CHANNELS], dtype=tl.float32)
    for p in range(per_head):
        at = row * per_head + p
        width, height, start, left, up, right, down, weight = _locate(points, weights, maps, at, p, valid)
        for dx in tl.static_range(2):
            for dy in tl.static_range(2):
                share = weight * (right if dx else 1 - right) * (down if dy else 1 - down)
                offset, inside = _corner(
                    width, height, start, left + dx, up + dy, valid, step, channel, channels
                )
                sampled = tl.load(origin + offset, mask=inside, other=0.0).to(tl.float32)
                total += share[:, None] * sampled
    target = out + (row * channels)[:, None] + channel[None, :]
    tl.store(target, total.to(out.dtype.element_ty), mask=valid[:, None] & (channel < channels)[None, :])


@jit
def backward_kernel(
    grad: tl.tensor,
    value: tl.tensor,
    points: tl.tensor,
    weights: tl.tensor,
    maps: tl.tensor,
    grad_value: tl.tensor,
    grad_points: tl.tensor,
    grad_weights: tl.tensor,
    tokens: tl.tensor,
    queries: tl.tensor,
    heads: tl.tensor,
    channels: tl.tensor,
    per_head: tl.tensor,
    QUERIES: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Compute the gradients of a block of queries of one head of one image."""
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    channel = tl.arange(0, CHANNELS)
    valid = query < queries
    row = (image * queries + query) * heads + head
    origin = (image * tokens * heads + head) * channels
    step = heads * channels
    source = grad + (row * channels)[:, None] + channel[None, :]
    grad_out = tl.load(source, mask=valid[:, None] & (channel < channels)[None, :], other=0.0).to(tl.float32)
    for p in range(per_head):
        at = row * per_head + p
        width, height, start, left, up, right, down, weight = _locate(points, weights, maps, at, p, valid)
        to_weight = tl.zeros([QUERIES], dtype=tl.float32)
        to_x = tl.zeros([QUERIES], dtype=tl.float32)
        to_y = tl.zeros([QUERIES], dtype=tl.float32)
        for dx in tl.static_range(2):
            for dy in tl.static_range(2):
                across = right if dx else 1 - right
                along = down if dy else 1 - down
                offset, inside = _corner(
                    width, height, start, left + dx, up + dy, valid, step, channel, channels
                )
                sampled = tl.load(value + origin + offset, mask=inside, other=0.0).to(tl.float32)
                product = tl.sum(sampled * grad_out, axis=1)
                to_weight += product * across * along
                to_x += product * along * (1.0 if dx else -1.0)
                to_y += product * across * (1.0 if dy else -1.0)
                share = (weight * across * along)[:, None] * grad_out
                tl.atomic_add(grad_value + origin + offset, share, mask=inside, sem="relaxed")
        tl.store(grad_weights + at, to_weight, mask=valid)
        tl.store(grad_points + 2 * at, to_x * weight * width, mask=valid)
        tl.store(grad_points + 2 * at + 1, to_y * weight * height, mask=valid)
