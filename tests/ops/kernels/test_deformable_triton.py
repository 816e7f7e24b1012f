"""The GPU kernels: by Triton's interpreter and for real processors without a GPU, and on one where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from detrscope.core.errors import UserError
from detrscope.ops.deformable import use_kernel
from tests.conftest import ROOT
from tests.support.deformable_inputs import SamplingInputs, gradients, random_inputs

triton = pytest.importorskip("triton", reason="Triton comes with torch for Linux only")

INTERPRETED = """
import math, sys, torch
sys.path.insert(0, sys.argv[1])
from detrscope.ops.deformable import use_kernel
from tests.support.deformable_inputs import SamplingInputs, gradients, random_inputs

def both(of):
    results = []
    for engine in ("triton", "reference"):
        with use_kernel(engine):
            results.append(gradients(of))
    return zip(*results, strict=True)

for of in (
    random_inputs(1, queries=34, heads=1),
    random_inputs(2, queries=3, images=1, channels=5, point_levels=(2, 0, 1, 0)),
    random_inputs(3, queries=1, heads=1, images=1, levels=((1, 1),), point_levels=(0,)),
):
    for ours, theirs in both(of):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)
for dtype, tolerance in ((torch.bfloat16, 0.02), (torch.float16, 0.002)):
    of = random_inputs(4, queries=3, heads=1, images=1, point_levels=(0, 2))
    for ours, theirs in both(SamplingInputs(of.value.to(dtype), of.points, of.scores, of.levels, of.point_levels)):
        assert ours.dtype == theirs.dtype
        scale = theirs.float().abs().max()
        torch.testing.assert_close(ours.float() / scale, theirs.float() / scale, rtol=tolerance, atol=tolerance / 10)
of = random_inputs(5, queries=5, images=1, heads=1, point_levels=(1, 0))
for query, bad in enumerate((math.nan, math.inf, -math.inf, 1e30)):
    of.points[0, query, 0, 0, query % 2] = bad
for ours, theirs in both(of):
    assert torch.equal(ours.isnan().any(-1), theirs.isnan().any(-1))
    torch.testing.assert_close(ours.nan_to_num(), theirs.nan_to_num(), rtol=1e-4, atol=2e-5)
print("equal")
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="tested on the GPU itself")
def test_interpreted_equals_reference() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("DETRSCOPE_DEFORMABLE", None)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", INTERPRETED, str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "equal\n"


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_compiles_for_a_gpu(dtype: str) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from detrscope.ops.kernels import deformable_triton

    def assembly(kernel: object, *tensors: str) -> str:
        names = kernel.arg_names  # type: ignore[attr-defined]
        constants = {"QUERIES": 8, "CHANNELS": 32}
        types = dict(zip(names, tensors, strict=False))
        signature = {n: types.get(n, "constexpr" if n in constants else "i32") for n in names}
        whole = [n for n in names if n in types or n == "channels"]  # multiples of 16, as a launch finds them
        hints = {(names.index(n),): [["tt.divisibility", 16]] for n in whole}
        options = {"num_warps": 1, "enable_fp_fusion": True}
        source = ASTSource(kernel, signature, constants, hints)
        return str(triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"])

    # What instructions come out is the compiler's business and changes with its version.
    value, real = f"*{dtype}", "*fp32"
    assert ".entry forward_kernel" in assembly(
        deformable_triton.forward_kernel, value, real, real, "*i32", value
    )
    backward = (value, value, real, real, "*i32", real, real, real)
    assert ".entry backward_kernel" in assembly(deformable_triton.backward_kernel, *backward)


def test_deterministic_algorithms_are_refused() -> None:
    from detrscope.ops.kernels import deformable_triton

    of = random_inputs(queries=2)
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(UserError, match="'triton' adds gradients in no fixed order"):
            deformable_triton.backward(of.sample(), *of.tensors, (5, 7, 3, 4, 1, 2), of.point_levels)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnGpu:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("channels", [32, 20, 8])
    def test_equals_reference(self, dtype: torch.dtype, channels: int) -> None:
        tolerance = 1e-4 if dtype == torch.float32 else 0.02
        of = on_gpu(random_inputs(1, queries=70, heads=8, channels=channels), dtype)
        for ours, theirs in zip(by(of, "triton"), by(of, "reference"), strict=True):
            assert ours.dtype == theirs.dtype
            scale = theirs.float().abs().max()
            torch.testing.assert_close(
                ours.float() / scale, theirs.float() / scale, rtol=tolerance, atol=tolerance
            )

    def test_chosen_automatically_and_compiled_without_breaks(self) -> None:
        of = on_gpu(random_inputs(2, queries=40), torch.float32)
        compiled: Callable[..., Tensor] = torch.compile(of.sample, fullgraph=True)
        expected = by(of, "triton")[0]
        torch.testing.assert_close(of.sample(), expected, rtol=0, atol=0)
        torch.testing.assert_close(compiled(*of.tensors), expected, rtol=1e-5, atol=1e-5)

    def test_autocast(self) -> None:
        of = on_gpu(random_inputs(3), torch.bfloat16)
        with torch.autocast("cuda", torch.bfloat16):
            assert of.sample().dtype == torch.bfloat16


def on_gpu(of: SamplingInputs, dtype: torch.dtype) -> SamplingInputs:
    moved = of.to(lambda x: x.cuda())
    return SamplingInputs(moved.value.to(dtype), moved.points, moved.scores, of.levels, of.point_levels)


def by(of: SamplingInputs, engine: str) -> tuple[Tensor, ...]:
    with use_kernel(engine):  # type: ignore[arg-type]
        return gradients(of)
