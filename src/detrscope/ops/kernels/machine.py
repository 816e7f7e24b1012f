"""What this machine computes fast, found by asking torch and oneDNN: by running small operators and timing them.

Names of CPUs and their flags say too little: oneDNN may be told to stay below what the CPU has
(`ONEDNN_MAX_CPU_ISA`), may be absent (macOS), or may emulate a type that the CPU lacks, slowly and without a word.
Every answer is found once per process, when it is first needed, in some milliseconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from detrscope.console import log
from detrscope.core.model_card import Precision

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
SWITCH = "DETRSCOPE_ONEDNN"  # of the environment: "0" keeps to torch's own operators
if os.environ.get(SWITCH) == "0":
    torch.backends.mkldnn.set_flags(False)  # before any operator has run: torch's own calls go there too

# A native bf16 product takes a quarter to a half of float32's time, an emulated one 5 to 80 times as much.
FAST = 0.8
# torch's own float32 product (MKL, OpenBLAS) must be this much faster to be preferred to oneDNN's. The margin is wide
# because rounding depends on the choice: it must come out the same in every process of a run.
CLEARLY_FASTER = 1.4
REPEATS = 5
PATIENCE = 0.02  # seconds for one operator after its first call


class Cost(NamedTuple):
    """Seconds of a 256 x 256 matrix product and of a 3 x 3 convolution of a 64 x 40 x 40 map."""

    product: float
    convolution: float


def is_native(dtype: torch.dtype) -> bool:
    """Whether the CPU computes products and convolutions of a type faster than those of float32."""
    return dtype == torch.float32 or slowdown(dtype) <= FAST


def slowdown(dtype: torch.dtype) -> float:
    """Time on the CPU relative to float32, the worse of a matrix product and a convolution."""
    reference, cost = cost_on_cpu(torch.float32), cost_on_cpu(dtype)
    return max(cost.product / reference.product, cost.convolution / reference.convolution)


def product_slowdown(dtype: torch.dtype) -> float:
    """Time of a matrix product on the CPU relative to float32."""
    return cost_on_cpu(dtype).product / cost_on_cpu(torch.float32).product


@cache
def cost_on_cpu(dtype: torch.dtype) -> Cost:
    """What torch's own operators take on the CPU; infinite for an operator that torch lacks for this type."""
    a = torch.full((256, 256), 0.5, dtype=dtype)
    image = torch.full((1, 64, 40, 40), 0.5, dtype=dtype).to(memory_format=torch.channels_last)
    kernel = torch.full((64, 64, 3, 3), 0.5, dtype=dtype).to(memory_format=torch.channels_last)
    return Cost(_seconds(lambda: a @ a), _seconds(lambda: F.conv2d(image, kernel, padding=1)))


def _seconds(function: Callable[[], Tensor]) -> float:
    """The least time of a few calls, which others only add to; on one thread, since two would wait for each other."""
    least, threads = float("inf"), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            function()
            end = time.perf_counter() + PATIENCE
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
    """Whether torch has oneDNN and may use it."""
    return torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


@cache
def onednn_convolves(dtype: torch.dtype) -> bool:
    """Whether oneDNN's fused convolutions run for a type. They are private operators of torch: try before use."""
    if dtype not in (torch.float32, torch.bfloat16) or not is_native(dtype) or not has_onednn():
        return False
    x = torch.ones(1, 16, 8, 8, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.ones(16, 16, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    shape = ([1, 1], [1, 1], [1, 1], 1)  # padding, stride, dilation, groups

    def convolve() -> Tensor:
        y = torch.ops.mkldnn._convolution_pointwise(x, weight, None, *shape, "relu", [], "")
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *shape, list(x.shape))
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            y, x, packed, None, *shape, "add", 1.0, "relu", [], ""
        )

    return _runs(convolve, f"fused convolutions of {dtype}")


@cache
def onednn_multiplies(dtype: torch.dtype) -> bool:
    """Whether to take linear layers of a type from oneDNN: it has them, and torch's own are not clearly faster.

    On AMD's processors torch's float32 product (MKL) runs at half of what oneDNN reaches; elsewhere they are alike.
    """
    if dtype not in (torch.float32, torch.bfloat16) or not is_native(dtype) or not has_onednn():
        return False
    x = torch.full((256, 256), 0.5, dtype=dtype)

    def multiply() -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, x, x[0], "relu", [], "")

    if not _runs(multiply, f"linear layers of {dtype}"):
        return False
    return _seconds(multiply) <= CLEARLY_FASTER * _seconds(lambda: F.linear(x, x, x[0]))


def _runs(function: Callable[[], Tensor], what: str) -> bool:
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            function()
    except (RuntimeError, AttributeError, NotImplementedError) as problem:
        log.debug("oneDNN has no %s here: %s", what, str(problem).splitlines()[0])
        return False
    return True


def fastest_precision(device: torch.device) -> Precision:
    """The fastest precision that a device computes natively and that trains as well as float32: bf16 or fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu" and is_native(torch.bfloat16):
        return "bf16"
    return "fp32"


def warn_if_emulated(precision: Precision, device: torch.device) -> None:
    """Say once how much slower a precision is than fp32 where the CPU only emulates it."""
    dtype = DTYPES[precision]
    if device.type == "cpu" and not is_native(dtype):
        _warn_once(precision, slowdown(dtype))


@cache
def _warn_once(precision: str, factor: float) -> None:
    slower = f"up to {factor:.0f} times slower than" if factor >= 1.5 else "no faster than"
    log.warning(
        "precision %s: this CPU emulates it, %s fp32; precision auto takes what is fast", precision, slower
    )
