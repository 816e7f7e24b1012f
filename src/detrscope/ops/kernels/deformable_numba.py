"""Deformable sampling on a CPU: calls the kernels of `deformable_numba_kernel.py` with tensors.

A kernel is compiled when first needed, in a second or two, and cached for the next process (`compile_cache.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from detrscope.ops.kernels import deformable_numba_kernel as kernel
from detrscope.ops.kernels import deformable_reference
from detrscope.ops.kernels.compile_cache import compile_kernel
from detrscope.ops.kernels.simd import BYTES
from detrscope.ops.kernels.threads import c_function, run_on_threads

STORAGE = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float64: "f64"}
WORTH_A_THREAD = 1 << 17  # channels read for all points: less is done before another thread has woken up
MAX_BYTES = 2**31 - 1  # of the values of an image, since offsets are int32

Kind = Literal["forward", "backward"]


def forward(
    value: Tensor, points: Tensor, weights: Tensor, sizes: Sequence[int], point_levels: Sequence[int]
) -> Tensor:
    """Sample [B, S, h, d] as `deformable_reference.forward` does; values are float32, bfloat16 or float64."""
    if _too_large(value):
        return deformable_reference.forward(value, points, weights, sizes, point_levels)
    out = value.new_empty(value.shape[0], points.shape[1], value.shape[2] * value.shape[3])
    inputs = [value.contiguous(), points.contiguous(), weights.contiguous(), out]
    _run("forward", inputs, sizes, point_levels)
    return out


def backward(
    grad: Tensor,
    value: Tensor,
    points: Tensor,
    weights: Tensor,
    sizes: Sequence[int],
    point_levels: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of value, points and weights from `grad` [B, Q, h*d], that of the output."""
    if _too_large(value):
        return deformable_reference.backward(grad, value, points, weights, sizes, point_levels)
    inputs = [value.contiguous(), points.contiguous(), weights.contiguous()]
    grads = [torch.empty_like(x) for x in inputs]
    _run("backward", [*inputs, grad.to(value.dtype).contiguous(), *grads], sizes, point_levels)
    return grads[0], grads[1], grads[2]


def _too_large(value: Tensor) -> bool:
    return value[:1].numel() * 8 > MAX_BYTES


def _run(kind: Kind, tensors: list[Tensor], sizes: Sequence[int], point_levels: Sequence[int]) -> None:
    """Run a kernel on tensors: value, points, weights, out, and in the backward pass the three gradients."""
    images, tokens, heads, channels = tensors[0].shape
    queries, per_head = tensors[1].shape[1], tensors[1].shape[3]
    storage = STORAGE[tensors[0].dtype]
    if kind == "forward":
        tasks, repeats = images * -(-queries // kernel.FORWARD_BLOCK), heads
        part = channels * BYTES[storage]
        steps = (heads * part, part)
    else:
        tasks, repeats = images * heads, kernel.BACKWARD_BLOCK
        steps = (channels * BYTES[kernel.kernel_sum_storage(storage)], 0)
    scratch_bytes = kernel.kernel_scratch_bytes(
        storage, channels, tokens, repeats * per_head, kind == "backward"
    )
    work = images * queries * heads * per_head * channels
    threads = min(torch.get_num_threads(), max(tasks, 1)) if work >= WORTH_A_THREAD else 1
    scratch = torch.empty(threads * scratch_bytes, dtype=torch.uint8)
    maps = _maps(tuple(sizes), tuple(point_levels), storage, repeats, *steps)
    addresses = [x.data_ptr() for x in tensors] + [0] * (7 - len(tensors))
    addresses += [maps[0].ctypes.data, maps[1].ctypes.data, scratch.data_ptr()]
    counts = [scratch_bytes, images, tokens, queries, heads, per_head]
    job = np.array([0, 0, *addresses, *counts], dtype=np.int64)  # laid out as kernel.JOB
    run_on_threads(compiled_kernel(kind, storage, channels)[0], job.ctypes.data, threads)


@lru_cache(maxsize=256)
def _maps(
    sizes: tuple[int, ...], point_levels: tuple[int, ...], storage: str, repeats: int, token: int, part: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the feature maps of all points of a head, repeated, laid out as the kernel's `Maps`.

    Args:
        sizes: height and width of each level.
        point_levels: the level of each of P points.
        storage: how a value is stored; determines the type of the sums.
        repeats: number of repetitions.
        token: bytes from one token to the next.
        part: bytes from the first token of one repetition to that of the next.

    Returns:
        Widths and heights [2, repeats * P]; bytes to each map's first token and bytes per map row, of the same shape.
    """
    heights, widths = np.array(sizes, dtype=np.int64).reshape(-1, 2).T
    starts = np.array([0, *accumulate(heights * widths)])[:-1]
    levels = np.array(point_levels)
    first = (starts[levels] * token + np.arange(repeats)[:, None] * part).reshape(-1)
    size = np.stack([np.tile(widths[levels], repeats), np.tile(heights[levels], repeats)])
    down = np.tile(widths[levels] * token, repeats)
    return size.astype(kernel.kernel_sum_type(storage)), np.stack([first, down]).astype(np.int32)


@cache
def compiled_kernel(kind: Kind, storage: str, channels: int) -> tuple[Any, Any]:
    """Return the C function of a kernel, and the numba object that must outlive it."""
    source = (kernel.forward_kernel if kind == "forward" else kernel.backward_kernel)(storage, channels)
    compiled = compile_kernel(source, kernel.ENTRY)
    assert compiled.address is not None
    return c_function(compiled.address), compiled
