"""Fast types and operators of this machine, found by timing small operators of torch and oneDNN.

CPU names and flags are not enough: oneDNN may be limited below the CPU's instruction set (`ONEDNN_MAX_CPU_ISA`), may
be absent (macOS), or may emulate a type that the CPU lacks, slowly and silently. Every answer is measured once per
process, when first needed, in some milliseconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from detrscope.console import log
from detrscope.core.model_card import Precision

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
SWITCH = "DETRSCOPE_ONEDNN"  # environment variable: "0" keeps to torch's own operators
if os.environ.get(SWITCH) == "0":
    set_flags: Any = torch.backends.mkldnn.set_flags  # torch has no types here
    set_flags(False)  # before any operator has run: torch's own operators use oneDNN too

# A native bf16 product takes a quarter to a half of float32's time, an emulated one 5 to 80 times as much.
FAST = 0.8
# torch's own float32 product (MKL, OpenBLAS) must be this much faster to be preferred to oneDNN's. The margin is wide
# because rounding depends on the choice, which must be the same in every process of a run.
CLEARLY_FASTER = 1.4
REPEATS = 5
TIME_LIMIT = 0.02  # seconds for one operator after its first call


class Cost(NamedTuple):
    """Seconds of a 256 x 256 matrix product and of a 3 x 3 convolution of a 64 x 40 x 40 map."""

    product: float
    convolution: float


def is_native_precision(dtype: torch.dtype) -> bool:
    """Return whether the CPU computes products and convolutions of a type faster than those of float32."""
    return dtype == torch.float32 or precision_slowdown(dtype) <= FAST


def precision_slowdown(dtype: torch.dtype) -> float:
    """Return the time on the CPU relative to float32, the worse of a matrix product and a convolution."""
    reference, cost = precision_cost(torch.float32), precision_cost(dtype)
    return max(cost.product / reference.product, cost.convolution / reference.convolution)


def precision_product_slowdown(dtype: torch.dtype) -> float:
    """Return the time of a matrix product on the CPU relative to float32."""
    return precision_cost(dtype).product / precision_cost(torch.float32).product


@cache
def precision_cost(dtype: torch.dtype) -> Cost:
    """Measure torch's own operators on the CPU; infinite for an operator that torch lacks for this type."""
    a = torch.full((256, 256), 0.5, dtype=dtype)
    image = torch.full((1, 64, 40, 40), 0.5, dtype=dtype).to(memory_format=torch.channels_last)
    kernel = torch.full((64, 64, 3, 3), 0.5, dtype=dtype).to(memory_format=torch.channels_last)
    return Cost(_seconds(lambda: a @ a), _seconds(lambda: F.conv2d(image, kernel, padding=1)))


def _seconds(function: Callable[[], object]) -> float:
    """Return the shortest of a few calls, since other programs only add time; on one thread, without waiting."""
    least, threads = float("inf"), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            function()
            end = time.perf_counter() + TIME_LIMIT
            for _ in range(REPEATS):
                start = time.perf_counter()
                function()
                now = time.perf_counter()
                least = min(least, now - start)
                if now > end:
                    break
    except RuntimeError as problem:
        log.debug("an operator is missing on this machine: %s", str(problem).splitlines()[0])
    finally:
        torch.set_num_threads(threads)
    return least


def has_onednn() -> bool:
    """Return whether torch has oneDNN and may use it."""
    is_available: Any = torch.backends.mkldnn.is_available  # torch has no types here
    return bool(is_available() and torch.backends.mkldnn.enabled)


@cache
def onednn_convolves(dtype: torch.dtype) -> bool:
    """Return whether oneDNN's fused convolutions run for a type; they are private operators of torch, so try them."""
    if not _may_try_onednn(dtype):
        return False
    x = torch.ones(1, 16, 8, 8, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.ones(16, 16, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    geometry = ([1, 1], [1, 1], [1, 1], 1)  # padding, stride, dilation, groups
    mkldnn = torch.ops.mkldnn

    def convolve() -> object:
        y = mkldnn._convolution_pointwise(x, weight, None, *geometry, "relu", [], "")
        packed = mkldnn._reorder_convolution_weight(weight, *geometry, list(x.shape))
        return mkldnn._convolution_pointwise_.binary(
            y, x, packed, None, *geometry, "add", 1.0, "relu", [], ""
        )

    return _runs(convolve, f"fused convolutions of {dtype}")


@cache
def onednn_multiplies(dtype: torch.dtype) -> bool:
    """Return whether to take linear layers of a type from oneDNN: it has them, and torch's are not clearly faster.

    On AMD's processors torch's float32 product (MKL) has half the speed of oneDNN's; elsewhere they are equal.
    """
    if not _may_try_onednn(dtype):
        return False
    x = torch.full((256, 256), 0.5, dtype=dtype)

    def multiply() -> object:
        return torch.ops.mkldnn._linear_pointwise(x, x, x[0], "relu", [], "")

    if not _runs(multiply, f"linear layers of {dtype}"):
        return False
    return _seconds(multiply) <= CLEARLY_FASTER * _seconds(lambda: F.linear(x, x, x[0]))


def _may_try_onednn(dtype: torch.dtype) -> bool:
    return dtype in (torch.float32, torch.bfloat16) and is_native_precision(dtype) and has_onednn()


def _runs(function: Callable[[], object], name: str) -> bool:
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            function()
    except (RuntimeError, AttributeError, NotImplementedError) as problem:
        log.debug("oneDNN has no %s here: %s", name, str(problem).splitlines()[0])
        return False
    return True


def fastest_precision(device: torch.device) -> Precision:
    """Return the fastest precision that a device computes natively and that trains as well as float32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu" and is_native_precision(torch.bfloat16):
        return "bf16"
    return "fp32"


def warn_if_precision_emulated(precision: Precision, device: torch.device) -> None:
    """Warn once how much slower a precision is than fp32 where the CPU only emulates it."""
    dtype = DTYPES[precision]
    if device.type == "cpu" and not is_native_precision(dtype):
        _warn_once(precision, precision_slowdown(dtype))


@cache
def _warn_once(precision: str, factor: float) -> None:
    slower = f"up to {factor:.0f} times slower than" if factor >= 1.5 else "no faster than"
    log.warning(
        "precision %s: this CPU emulates it, %s fp32; precision auto selects a fast one", precision, slower
    )
