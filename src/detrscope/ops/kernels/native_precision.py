"""Fast types and operators of this machine, found by timing small operators of torch and oneDNN.

CPU names and flags are not enough: oneDNN may be limited below the CPU's instruction set (`ONEDNN_MAX_CPU_ISA`), may
be absent (macOS), or may emulate a type that the CPU lacks, slowly and silently. Every answer is measured once per
process, when first needed, in some milliseconds; what is compared is timed in turns, so that other programs slow down
both sides alike.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from detrscope.console import log
from detrscope.core.model_card import Precision
from detrscope.ops.kernels.speed_choices import choose

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
# oneDNN's float32 product must be this much faster to be preferred to torch's own (MKL, OpenBLAS). The margin is wide
# because rounding depends on the choice, which must be the same in every process of a run.
CLEARLY_FASTER = 1.4
REPEATS = 10
TIME_LIMIT = 0.02  # seconds for one operator after its first call


class Cost(NamedTuple):
    """Seconds of a 256 x 256 matrix product and of a 3 x 3 convolution of a 64 x 40 x 40 map."""

    product: float
    convolution: float


def is_native_precision(dtype: torch.dtype) -> bool:
    """Return whether the CPU computes products and convolutions of a type faster than those of float32."""
    if dtype == torch.float32:
        return True
    return choose(f"native {dtype}", lambda: precision_slowdown(dtype) <= FAST)


def multiplies_fast(dtype: torch.dtype) -> bool:
    """Return whether the CPU computes products of a type faster than those of float32."""
    return choose(f"fast products of {dtype}", lambda: _slowdown(dtype).product <= FAST)


def precision_slowdown(dtype: torch.dtype) -> float:
    """Return the time on the CPU relative to float32, the worse of a matrix product and a convolution."""
    return max(_slowdown(dtype))


def _slowdown(dtype: torch.dtype) -> Cost:
    """Return the times of a type in those of float32."""
    reference, cost = precision_costs(dtype)
    return Cost(cost.product / reference.product, cost.convolution / reference.convolution)


@cache
def precision_costs(dtype: torch.dtype) -> tuple[Cost, Cost]:
    """Measure torch's own operators on the CPU for float32 and a type; infinite where torch lacks one."""
    products, convolutions = [], []
    for one in (torch.float32, dtype):
        a = torch.full((256, 256), 0.5, dtype=one)
        image = torch.full((1, 64, 40, 40), 0.5, dtype=one).to(memory_format=torch.channels_last)
        kernel = torch.full((64, 64, 3, 3), 0.5, dtype=one).to(memory_format=torch.channels_last)
        products.append(partial(torch.matmul, a, a))
        convolutions.append(partial(F.conv2d, image, kernel, padding=1))
    first, second = zip(_seconds(*products), _seconds(*convolutions), strict=True)
    return Cost(*first), Cost(*second)


def _seconds(*functions: Callable[[], object]) -> list[float]:
    """Return the shortest of a few calls of each, taken in turns, on one thread, without waiting."""
    least, threads = [float("inf")] * len(functions), torch.get_num_threads()
    running = [index for index, function in enumerate(functions) if _runs(function)]
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            end = time.perf_counter() + TIME_LIMIT * len(running)
            for _ in range(REPEATS):
                for index in running:
                    start = time.perf_counter()
                    functions[index]()
                    least[index] = min(least[index], time.perf_counter() - start)
                if time.perf_counter() > end:
                    break
    finally:
        torch.set_num_threads(threads)
    return least


def has_onednn() -> bool:
    """Return whether torch has oneDNN and may use it."""
    is_available: Any = torch.backends.mkldnn.is_available  # torch has no types here
    return bool(is_available() and torch.backends.mkldnn.enabled)


def onednn_convolves(dtype: torch.dtype) -> bool:
    """Return whether oneDNN's fused convolutions run for a type; they are private operators of torch, so try them."""
    return choose(f"oneDNN's convolutions of {dtype}", lambda: _may_try_onednn(dtype) and _convolves(dtype))


def _convolves(dtype: torch.dtype) -> bool:
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

    return _runs(convolve)


def onednn_multiplies(dtype: torch.dtype) -> bool:
    """Return whether to take linear layers of a type from oneDNN: for float32, where it is clearly faster than torch.

    On some of AMD's processors torch's float32 product (MKL) has half the speed of oneDNN's; elsewhere it is as fast
    or faster. In bf16 torch multiplies by oneDNN itself, but without the ReLU in the same pass.
    """
    return choose(f"oneDNN's products of {dtype}", lambda: _may_try_onednn(dtype) and _multiplies(dtype))


def _multiplies(dtype: torch.dtype) -> bool:
    x = torch.full((256, 256), 0.5, dtype=dtype)

    def multiply() -> object:
        return torch.ops.mkldnn._linear_pointwise(x, x, x[0], "relu", [], "")

    if not _runs(multiply):
        return False
    if dtype != torch.float32:
        return True
    ours, torchs = _seconds(multiply, lambda: F.linear(x, x, x[0]))
    return CLEARLY_FASTER * ours <= torchs


def _may_try_onednn(dtype: torch.dtype) -> bool:
    return dtype in (torch.float32, torch.bfloat16) and is_native_precision(dtype) and has_onednn()


def _runs(function: Callable[[], object]) -> bool:
    """Return whether an operator is there for a type."""
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            function()
    except (RuntimeError, AttributeError, NotImplementedError) as problem:
        log.debug("an operator is missing on this machine: %s", str(problem).splitlines()[0])
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
