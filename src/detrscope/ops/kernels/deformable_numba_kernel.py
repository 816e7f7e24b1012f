"""Kernels of deformable sampling on a CPU, compiled by numba for one head width and one type of value.

A kernel is a C function of one job (`JOB`). Any number of threads may run it on the same job: each takes the next task
until none is left. Tasks write to disjoint memory, each in a fixed order, so that the result does not depend on the
number of threads. Nothing is allocated here and nothing can fail.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.np.numpy_support import carray

from detrscope.ops.kernels.simd import (
    BYTES,
    accumulate,
    add,
    atomic_add,
    dot,
    fma,
    load,
    pointer,
    prefetch,
    store,
    times,
    zeros,
)

FORWARD_BLOCK = 32  # queries per task of the forward kernel, all heads
BACKWARD_BLOCK = 8  # queries per block of the backward kernel, whose task is one head of one image
JOB = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("next_task", "next_thread", "value", "points", "weights", "out"),
            *("grad_value", "grad_points", "grad_weights", "sizes", "steps", "scratch", "scratch_bytes"),
            *("images", "tokens", "queries", "heads", "per_head"),
        )
    ]
)
LINE = 64  # bytes of a cache line
PREFETCH_DISTANCE = 24  # points
TASK, THREAD = 0, 1  # index of the counters in a job
make_pointer: Any = types.CPointer  # numba has no types
ENTRY = types.void(make_pointer(numba.from_dtype(JOB)))
Array = Any


class Numbers(NamedTuple):
    """Constants of both kernels, in the type of the sums."""

    half: Any
    one: Any
    before: Any  # left of and above all tokens
    nan: Any


class Maps(NamedTuple):
    """Feature map of each of n points, and its strides in bytes, int32."""

    width: Array  # [n]
    height: Array  # [n]
    first: Array  # [n] from the origin to the map's first token
    down: Array  # [n] from one row of tokens to the next
    across: Any  # from one token to the next in its row


class Corners(NamedTuple):
    """The four tokens around each of n points (upper left, upper right, lower left, lower right) and its offset."""

    at: Array  # [4, n] addresses
    way: Array  # [4, n] bytes from the origin, int32; negative outside the map
    share: Array  # [4, n] weight times bilinear coefficient
    right: Array  # [n] how far right of the upper left token the point lies, 0..1
    below: Array  # [n]


def kernel_sum_storage(storage: str) -> str:
    """Return how sums of rows are stored."""
    return "f64" if storage == "f64" else "f32"


def kernel_sum_type(storage: str) -> Any:
    """Return the type of the sums, and of points and weights."""
    return np.float64 if storage == "f64" else np.float32


def _numbers(real: Any) -> Numbers:
    return Numbers(real(0.5), real(1), real(-2), real(np.nan))


def kernel_scratch_bytes(storage: str, channels: int, tokens: int, points: int, backward: bool) -> int:
    """Return the scratch memory in bytes of a thread that locates `points` points at a time."""
    real = int(kernel_sum_type(storage)().nbytes)
    rows = 2 * (tokens + 1) if backward else 1
    size = points * (4 * (8 + 4) + (13 if backward else 6) * real) + rows * channels * real
    return -(-size // 64) * 64


@numba.njit(inline="always")
def _locate(
    points: Array, weights: Array, maps: Maps, origin: int, outside: int, corners: Corners, numbers: Any
) -> None:
    """Locate the corners of points [2 * n]. A token outside its map is read at the address `outside`, a row of zeros.

    A point that is not finite has shares of NaN: its sum is NaN, as with `grid_sample`.
    """
    half, one, before, nan = numbers
    at, way, share, right, below = corners
    way0, way1, way2, way3 = way[0], way[1], way[2], way[3]
    share0, share1, share2, share3 = share[0], share[1], share[2], share[3]
    across, nowhere = maps.across, np.int32(-1)
    for i in range(len(weights)):
        width, height = maps.width[i], maps.height[i]
        x, y = points[2 * i] * width - half, points[2 * i + 1] * height - half
        finite = (x - x == 0) & (y - y == 0)
        weight = weights[i] if finite else nan
        x = x if x > before else before
        x = x if x < width else width
        y = y if y > before else before
        y = y if y < height else height
        column, row = np.floor(x), np.floor(y)
        fx, fy = x - column, y - row
        right[i], below[i] = fx if finite else nan, fy if finite else nan
        share0[i] = weight * (one - fx) * (one - fy)
        share1[i] = weight * fx * (one - fy)
        share2[i] = weight * (one - fx) * fy
        share3[i] = weight * fx * fy
        in_left, in_right = (column >= 0) & (column < width), (column >= -1) & (column < width - one)
        in_upper, in_lower = (row >= 0) & (row < height), (row >= -1) & (row < height - one)
        upper = np.int32(maps.first[i] + times(np.int32(row), maps.down[i]) + times(np.int32(column), across))
        lower = np.int32(upper + maps.down[i])
        way0[i] = upper if in_upper & in_left else nowhere
        way1[i] = np.int32(upper + across) if in_upper & in_right else nowhere
        way2[i] = lower if in_lower & in_left else nowhere
        way3[i] = np.int32(lower + across) if in_lower & in_right else nowhere
    for corner in range(4):  # its own loop: the one above then takes twice as many points to a register
        for i in range(len(weights)):
            at[corner, i] = origin + way[corner, i] if way[corner, i] >= 0 else outside


@numba.njit(inline="always")
def _corners(address: int, count: int, real: Any) -> tuple[Corners, int]:
    """Lay out the corners of `count` points at an address; return them and the address after them."""
    at = carray(pointer(address, np.int64), (4, count))
    share = carray(pointer(address + at.nbytes, real), (6, count))
    way = carray(pointer(address + at.nbytes + share.nbytes, np.int32), (4, count))
    return Corners(at, way, share[:4], share[4], share[5]), address + at.nbytes + share.nbytes + way.nbytes


def forward_kernel(storage: str, channels: int) -> Any:
    """Return the kernel that computes `out` from value, points and weights."""
    real, stored, sums = kernel_sum_type(storage), BYTES[storage], kernel_sum_storage(storage)
    summed = BYTES[sums]
    short = channels * stored <= LINE  # the processor prefetches longer rows itself
    numbers = _numbers(real)

    def forward(entry: Any) -> None:
        job = carray(entry, 1)[0]
        heads, queries, per_head = job.heads, job.queries, job.per_head
        count = heads * per_head  # all points of a query
        points = carray(pointer(job.points, real), (job.images * queries, 2 * count))
        weights = carray(pointer(job.weights, real), (job.images * queries, count))
        sizes = carray(pointer(job.sizes, real), (2, count))
        steps = carray(pointer(job.steps, np.int32), (2, count))
        token = heads * channels * stored  # bytes of a token, all heads
        maps = Maps(sizes[0], sizes[1], steps[0], steps[1], np.int32(token))
        mine = job.scratch + atomic_add(entry, THREAD) * job.scratch_bytes
        corners, zero_row = _corners(mine, count, real)
        store(zero_row, zeros(channels, sums), sums)
        at, _, share, _, _ = corners
        at0, at1, at2, at3 = at[0], at[1], at[2], at[3]
        share0, share1, share2, share3 = share[0], share[1], share[2], share[3]
        blocks = (queries + FORWARD_BLOCK - 1) // FORWARD_BLOCK
        task = atomic_add(entry, TASK)
        while task < job.images * blocks:
            image, block = task // blocks, task % blocks
            origin = job.value + image * job.tokens * token
            start = image * queries + block * FORWARD_BLOCK
            for q in range(start, min(start + FORWARD_BLOCK, (image + 1) * queries)):
                for ahead in range(0, count * summed, LINE // 2):
                    prefetch(job.weights + (q + 2) * count * summed + ahead)
                    prefetch(job.points + ((q + 2) * count * summed + ahead) * 2)
                _locate(points[q], weights[q], maps, origin, zero_row, corners, numbers)
                i = 0
                for head in range(heads):
                    # four sums, so that additions do not wait for one another
                    total0 = total1 = total2 = total3 = zeros(channels, storage)
                    for _ in range(per_head):
                        k = np.uintp(i)
                        if short:
                            far = np.uintp(min(i + PREFETCH_DISTANCE, count - 1))
                            prefetch(at0[far])
                            prefetch(at1[far])
                            prefetch(at2[far])
                            prefetch(at3[far])
                        total0 = fma(total0, share0[k], at0[k], storage)
                        total1 = fma(total1, share1[k], at1[k], storage)
                        total2 = fma(total2, share2[k], at2[k], storage)
                        total3 = fma(total3, share3[k], at3[k], storage)
                        i += 1
                    total = add(add(total0, total1), add(total2, total3))
                    store(job.out + q * token + head * channels * stored, total, storage)
            task = atomic_add(entry, TASK)

    return forward


def backward_kernel(storage: str, channels: int) -> Any:
    """Return the kernel that computes the gradients of value, points and weights from that of `out`.

    A task is one head of one image: no other task adds to that part of the value's gradient, and each token's sum is
    computed in the order of the queries. The head's values are copied to scratch first, which takes a fraction of the
    time of reading them with a stride over all heads.
    """
    real, sums = kernel_sum_type(storage), kernel_sum_storage(storage)
    stored, summed = BYTES[storage], BYTES[sums]
    numbers = _numbers(real)

    def backward(entry: Any) -> None:
        job = carray(entry, 1)[0]
        heads, queries, per_head, tokens = job.heads, job.queries, job.per_head, job.tokens
        all_points = carray(pointer(job.points, real), (job.images * queries, heads, 2 * per_head))
        all_weights = carray(pointer(job.weights, real), (job.images * queries, heads, per_head))
        grad_points = carray(pointer(job.grad_points, real), (job.images * queries, heads, 2 * per_head))
        grad_weights = carray(pointer(job.grad_weights, real), (job.images * queries, heads, per_head))
        count = BACKWARD_BLOCK * per_head
        sizes = carray(pointer(job.sizes, real), (2, count))
        steps = carray(pointer(job.steps, np.int32), (2, count))
        width, height = sizes[0], sizes[1]
        part, token, row = channels * stored, heads * channels * stored, channels * summed
        mine = job.scratch + atomic_add(entry, THREAD) * job.scratch_bytes
        corners, behind = _corners(mine, count, real)
        at, _, share, _, _ = corners
        near = carray(pointer(behind, real), (7 * count,))
        dots, points, weights = near[: 4 * count], near[4 * count : 6 * count], near[6 * count :]
        values = behind + near.nbytes  # [tokens + 1, channels], the last one outside
        grads = (tokens + 1) * row  # bytes from a row of values to the gradient of that row
        outside = values + tokens * row
        store(outside, zeros(channels, sums), sums)
        maps = Maps(width, height, steps[0], steps[1], np.int32(row))
        task = atomic_add(entry, TASK)
        while task < job.images * heads:
            image, head = task // heads, task % heads
            first = image * tokens * token + head * part
            for s in range(tokens):
                prefetch(job.value + first + (s + PREFETCH_DISTANCE) * token)
                store(values + s * row, load(job.value + first + s * token, channels, storage), sums)
                store(values + s * row + grads, zeros(channels, sums), sums)
            store(outside + grads, zeros(channels, sums), sums)
            for start in range(image * queries, (image + 1) * queries, BACKWARD_BLOCK):
                block = min(BACKWARD_BLOCK, (image + 1) * queries - start)
                for q in range(block):
                    for p in range(per_head):
                        weights[q * per_head + p] = all_weights[start + q, head, p]
                    for p in range(2 * per_head):
                        points[2 * q * per_head + p] = all_points[start + q, head, p]
                _locate(points, weights[: block * per_head], maps, values, outside, corners, numbers)
                i = 0
                for q in range(block):
                    grad = load(job.out + (start + q) * token + head * part, channels, storage)
                    for _ in range(per_head):
                        for corner in range(4):
                            dots[4 * i + corner] = dot(grad, at[corner, i])
                            accumulate(at[corner, i] + grads, share[corner, i], grad)
                        i += 1
                _to_points_and_weights(dots, points, weights, maps, corners, block * per_head, numbers)
                for q in range(block):
                    for p in range(per_head):
                        grad_weights[start + q, head, p] = weights[q * per_head + p]
                    for p in range(2 * per_head):
                        grad_points[start + q, head, p] = points[2 * q * per_head + p]
            for s in range(tokens):
                total = load(values + s * row + grads, channels, sums)
                store(job.grad_value + first + s * token, total, storage)
            task = atomic_add(entry, TASK)

    return backward


@numba.njit(inline="always")
def _to_points_and_weights(
    dots: Array, points: Array, weights: Array, maps: Maps, corners: Corners, count: int, numbers: Any
) -> None:
    """Overwrite points and weights by their gradients; `dots` [4 * n] are those with respect to the corners' shares."""
    one = numbers.one
    for i in range(count):
        upper_left, upper_right = dots[4 * i], dots[4 * i + 1]
        lower_left, lower_right = dots[4 * i + 2], dots[4 * i + 3]
        right, below, weight = corners.right[i], corners.below[i], weights[i]
        left, above = one - right, one - below
        weights[i] = (upper_left * left + upper_right * right) * above + (
            lower_left * left + lower_right * right
        ) * below
        across = (upper_right - upper_left) * above + (lower_right - lower_left) * below
        down = (lower_left - upper_left) * left + (lower_right - upper_right) * right
        points[2 * i] = weight * maps.width[i] * across
        points[2 * i + 1] = weight * maps.height[i] * down
