"""Deformable sampling: the kernels beside the `grid_sample` reference; the same numbers on both sides, checked.

On a machine with a GPU also Triton beside the reference, `torch.compile` of it and the published CUDA operator.

python -m benchmarks.deformable_kernel [--clone DIR] [--rounds 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.ratio import compare, machine
from detrscope.core.types import Level
from detrscope.ops.deformable import sample_reference, use_kernel
from detrscope.ops.kernels.deformable_dispatch import run_kernel

Sampler = Callable[["Case"], Tensor]
FOUR_LEVELS = tuple(
    Level(*size) for size in ((100, 134), (50, 67), (25, 34), (13, 17))
)  # 800 x 1066, 17,821 tokens
SPREAD = 3.0  # standard deviation of a point around its query's place, in cells of the point's own map


@dataclass(frozen=True)
class Case:
    """Tensors to sample, of one shape."""

    value: Tensor  # [B, S, h, d]
    points: Tensor  # [B, Q, h, P, 2]
    weights: Tensor  # [B, Q, h, P]
    given: Tensor  # [B, Q, h*d] gradient of the output
    levels: tuple[Level, ...]
    point_levels: tuple[int, ...]

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """What has a gradient."""
        return self.value, self.points, self.weights

    def to(self, device: str, dtype: torch.dtype) -> Case:
        """Return the same on another device, values in another type."""
        value, points, weights, given = (x.to(device) for x in (*self.inputs, self.given))
        return replace(self, value=value.to(dtype), points=points, weights=weights, given=given.to(dtype))


def case(images: int, queries: int | None, heads: int, channels: int, levels: tuple[Level, ...]) -> Case:
    """Four points a level around each query: around the tokens' own places where no number of queries is given."""
    generator = torch.Generator().manual_seed(0)
    tokens = sum(height * width for height, width in levels)
    point_levels = tuple(level for level in range(len(levels)) for _ in range(4))
    if queries is None:
        places = torch.cat([_centres(level) for level in levels]).expand(images, -1, -1)
    else:
        places = torch.rand(images, queries, 2, generator=generator)
    shape = (images, places.shape[1], heads, len(point_levels))
    sizes = torch.tensor([[levels[level].width, levels[level].height] for level in point_levels])
    offsets = torch.randn(*shape, 2, generator=generator) * SPREAD / sizes
    return Case(
        torch.randn(images, tokens, heads, channels, generator=generator),
        (places[:, :, None, None] + offsets).contiguous(),
        torch.randn(shape, generator=generator).softmax(-1),
        torch.randn(*shape[:2], heads * channels, generator=generator),
        levels,
        point_levels,
    )


def _centres(level: Level) -> Tensor:
    y, x = torch.meshgrid(
        (torch.arange(level.height) + 0.5) / level.height,
        (torch.arange(level.width) + 0.5) / level.width,
        indexing="ij",
    )
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def by_engine(engine: Any, of: Case) -> Tensor:
    with use_kernel(engine):
        return run_kernel(*of.inputs, of.levels, of.point_levels)


def by_reference(of: Case) -> Tensor:
    return sample_reference(*of.inputs, of.levels, of.point_levels)


def by_published(operator: Any, of: Case) -> Tensor:
    return _Published.apply(operator, of, *of.inputs)


class _Published(torch.autograd.Function):
    """The published operator; it wants every level to have the same number of points, in order."""

    @staticmethod
    def forward(ctx: Any, operator: Any, of: Case, value: Tensor, points: Tensor, weights: Tensor) -> Tensor:
        sizes = torch.tensor(of.levels, device=value.device)
        starts = torch.cat([sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]])
        per_level = (len(of.levels), len(of.point_levels) // len(of.levels))
        inputs = (value, sizes, starts, points.unflatten(3, per_level), weights.unflatten(3, per_level))
        ctx.save_for_backward(*inputs)
        ctx.operator = operator
        return operator.ms_deform_attn_forward(*inputs, 64)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = ctx.operator.ms_deform_attn_backward(*ctx.saved_tensors, grad.contiguous(), 64)
        return None, None, grads[0], grads[1].flatten(3, 4), grads[2].flatten(3, 4)


def forward(sampler: Sampler, of: Case) -> Tensor:
    with torch.no_grad():
        out = sampler(of)
    if out.is_cuda:
        torch.cuda.synchronize()
    return out


def forward_and_backward(sampler: Sampler, of: Case) -> tuple[Tensor, ...]:
    inputs = [x.detach().requires_grad_() for x in of.inputs]
    out = sampler(replace(of, value=inputs[0], points=inputs[1], weights=inputs[2]))
    grads = torch.autograd.grad(out, inputs, of.given)
    if out.is_cuda:
        torch.cuda.synchronize()
    return (out.detach(), *grads)


def check(samplers: dict[str, Sampler], of: Case, tolerance: float) -> None:
    """Stop where two sides give different outputs or gradients: root mean square, relative to that of the reference.

    The gradient of a point jumps where the point passes a token's centre, and of millions some lie within a rounding.
    """
    expected = forward_and_backward(by_reference, of)
    for name, sampler in samplers.items():
        for part, ours, theirs in zip(
            ("output", "value", "points", "weights"), forward_and_backward(sampler, of), expected, strict=True
        ):
            apart = ((ours - theirs).float().norm() / theirs.float().norm()).item()
            assert apart < tolerance, f"{name}: {part} differs by {apart:.1e}"


def measure(title: str, samplers: dict[str, Sampler], of: Case, rounds: int) -> None:
    for what, run in (("forward", forward), ("forward + backward", forward_and_backward)):
        compare(f"{title}, {what}", {n: partial(run, s, of) for n, s in samplers.items()}, rounds=rounds)


def published(clone: str | None) -> Any | None:
    """Return the published extension, if a clone of github.com/fundamentalvision/Deformable-DETR has it built."""
    if clone is None:
        return None
    for folder in (Path(clone) / "models" / "ops", *(Path(clone) / "models" / "ops" / "build").glob("lib*")):
        sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("MultiScaleDeformableAttention")
    except ImportError as problem:
        sys.exit(f"{clone}: {problem}; run `python setup.py build` in its models/ops first")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--clone", help="a clone of github.com/fundamentalvision/Deformable-DETR, models/ops built"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.basicConfig(level="INFO", format="%(message)s")
    print(machine())
    cases = {
        "encoder, 17,821 queries and tokens": case(1, None, 8, 32, FOUR_LEVELS),
        "decoder, 300 queries": case(1, 300, 8, 32, FOUR_LEVELS),
        "small, 16 x 100 queries, 320 tokens, 4 heads": case(16, 100, 4, 32, (Level(16, 16), Level(8, 8))),
    }
    kernel = {"reference": by_reference, "numba": partial(by_engine, "numba")}
    for name, of in cases.items():
        rounded = of.to("cpu", torch.bfloat16)
        check(kernel, of, 1e-2)
        check(kernel, rounded, 2e-2)
        measure(f"CPU, {name}", kernel, of, arguments.rounds)
        types = {"numba, fp32": of, "numba, bf16": rounded}
        for what, run in (("forward", forward), ("forward + backward", forward_and_backward)):
            sides = {n: partial(run, kernel["numba"], c) for n, c in types.items()}
            compare(f"CPU, {name}, {what}", sides, rounds=5 * arguments.rounds)
    if not torch.cuda.is_available():
        print("no GPU here: Triton is not measured")
        return
    operator = published(arguments.clone)
    print(torch.cuda.get_device_name())
    compiled = torch.compile(sample_reference)
    for name, of in cases.items():
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            there = of.to("cuda", dtype)
            sides: dict[str, Sampler] = {
                "reference": by_reference,
                "reference, compiled": lambda c: compiled(*c.inputs, c.levels, c.point_levels),
                "triton": partial(by_engine, "triton"),
            }
            if operator is not None and dtype == torch.float32:
                sides["published operator"] = partial(by_published, operator)
            check(sides, there, 1e-2 if dtype == torch.float32 else 3e-2)
            measure(f"GPU, {name}, {str(dtype).removeprefix('torch.')}", sides, there, 10 * arguments.rounds)


if __name__ == "__main__":
    main()
