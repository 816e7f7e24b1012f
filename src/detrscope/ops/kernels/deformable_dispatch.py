"""Choice of the kernel of deformable sampling: the requested one, else the fastest that runs on the device.

To torch all of them are one operator, `detrscope::deformable_sample`, with its output shape and its gradient, so that
`torch.compile` can trace through it; a compiled graph chooses its kernel whenever it runs. An exported graph has the
standard operators of the reference.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from detrscope.console import log
from detrscope.core.errors import UserError, suggest_nearest
from detrscope.core.types import Level
from detrscope.ops.kernels import deformable_reference
from detrscope.ops.kernels.deformable_reference import sample_reference, sum_dtype

Kernel = Literal["reference", "numba", "triton"]
VARIABLE = "DETRSCOPE_DEFORMABLE"  # environment variable: name of an kernel
FASTEST: dict[str, Kernel] = {"cpu": "numba", "cuda": "triton"}
TYPES = {
    "numba": (torch.float32, torch.bfloat16, torch.float64),
    "triton": (torch.float32, torch.bfloat16, torch.float16),
}
AT_RUN_TIME = ""  # in place of an kernel's name: choose when the operator runs
OPERATOR, GRADIENT = "detrscope::deformable_sample", "detrscope::deformable_sample_backward"

_requested: ContextVar[Kernel | None] = ContextVar("requested", default=None)


@contextmanager
def use_kernel(kernel: Kernel) -> Iterator[None]:
    """Sample by this kernel inside the `with`, regardless of the environment.

    Raises:
        UserError: there is no kernel of this name. An kernel that cannot run raises when it samples.
    """
    token = _requested.set(_known(kernel, "use_kernel"))
    try:
        yield
    finally:
        _requested.reset(token)


def run_kernel(
    value: Tensor, points: Tensor, weights: Tensor, levels: Sequence[Level], point_levels: Sequence[int]
) -> Tensor:
    """Sample, as `sample_reference` defines it, by the chosen kernel.

    Returns:
        [B, Q, h*d] in the type of `value`.

    Raises:
        UserError: the requested kernel cannot run here.
    """
    kernel: str = "reference"
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        kernel = AT_RUN_TIME
    elif not torch.compiler.is_compiling() and not torch._C._is_tracing():
        kernel = kernel_for(value.device.type, value.dtype)
    if kernel == "reference":
        return sample_reference(value, points, weights, levels, point_levels)
    dtype = sum_dtype(value.dtype)
    sizes = [side for level in levels for side in level]
    out: Tensor = torch.ops.detrscope.deformable_sample(
        value, points.to(dtype), weights.to(dtype), sizes, list(point_levels), kernel
    )
    return out


def kernel_for(device: str, dtype: torch.dtype) -> Kernel:
    """Return the kernel for values of a type on a kind of device such as `cpu`.

    Raises:
        UserError: the requested kernel cannot run here.
    """
    name = os.environ.get(VARIABLE)
    requested = _requested.get() or (_known(name, VARIABLE) if name else None)
    if requested is not None:
        problem = why_not(requested, device, dtype)
        if problem:
            raise UserError(
                f"deformable attention by '{requested}': {problem}; request another kernel or none"
            )
        return _log_once(requested, device, "as requested")
    fastest = FASTEST.get(device, "reference")
    problem = why_not(fastest, device, dtype)
    return _log_once("reference" if problem else fastest, device, problem or "the fastest here")


def _known(name: str, where: str) -> Kernel:
    if name not in get_args(Kernel):
        raise UserError(f"{where}: there is no kernel '{name}'; {suggest_nearest(name, get_args(Kernel))}")
    return cast(Kernel, name)


def why_not(kernel: Kernel, device: str, dtype: torch.dtype) -> str | None:
    """Return why an kernel cannot sample values of a type on a kind of device; None where it can."""
    if kernel == "reference":
        return None
    interpreted = kernel == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    if FASTEST.get(device) != kernel and not interpreted:
        return f"it does not run on {device}"
    if dtype not in TYPES[kernel]:
        known = ", ".join(str(d).removeprefix("torch.") for d in TYPES[kernel])
        return f"values are {str(dtype).removeprefix('torch.')} and it takes {known}"
    return _import_problem(kernel)


@cache
def _import_problem(module: str) -> str | None:
    try:
        import_module(module)
    except Exception as problem:  # a broken installation may raise anything
        return f"{module} cannot be imported ({str(problem).splitlines()[0]})"
    return None


@cache
def _log_once(kernel: Kernel, device: str, why: str) -> Kernel:
    log.info("deformable attention on %s runs by %s: %s", device, kernel, why)
    return kernel


def _kernels(kernel: str, value: Tensor) -> Any:
    """Return the module with `forward` and `backward` of an kernel, imported when first needed."""
    kernel = kernel or kernel_for(value.device.type, value.dtype)
    if kernel == "numba":
        from detrscope.ops.kernels import deformable_numba

        return deformable_numba
    if kernel == "triton":
        from detrscope.ops.kernels import deformable_triton

        return deformable_triton
    return deformable_reference


torch.library.define(
    OPERATOR,
    "(Tensor value, Tensor points, Tensor weights, SymInt[] sizes, int[] point_levels, str kernel) -> Tensor",
)
torch.library.define(
    GRADIENT,
    "(Tensor grad, Tensor value, Tensor points, Tensor weights, SymInt[] sizes, int[] point_levels, str kernel)"
    " -> (Tensor, Tensor, Tensor)",
)


@torch.library.impl(OPERATOR, "default")
def _forward(value: Tensor, *rest: Any) -> Tensor:
    return cast(Tensor, _kernels(rest[-1], value).forward(value, *rest[:-1]))


@torch.library.impl(GRADIENT, "default")
def _backward(grad: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return cast(tuple[Tensor, Tensor, Tensor], _kernels(rest[-1], value).backward(grad, value, *rest[:-1]))


def _shape(value: Tensor, points: Tensor, *_: Any) -> Tensor:
    b, _tokens, h, d = value.shape
    return value.new_empty(b, points.shape[1], h * d)


def _shapes_of_gradients(grad: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    value, points, weights = (x.new_empty(x.shape) for x in inputs[:3])
    return value, points, weights


torch.library.register_fake(OPERATOR, _shape)
torch.library.register_fake(GRADIENT, _shapes_of_gradients)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.rest = inputs[3:]


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.detrscope.deformable_sample_backward(grad, *ctx.saved_tensors, *ctx.rest)
    return (*grads, None, None, None)


torch.library.register_autograd(OPERATOR, _gradient, setup_context=_remember)
