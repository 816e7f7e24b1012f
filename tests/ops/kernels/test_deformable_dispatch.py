"""Which kernel samples, and what torch.compile, export and tracing see of it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from numba.core import caching
from torch import Tensor, nn

from detrscope.core.errors import UserError
from detrscope.ops.deformable import use_kernel
from detrscope.ops.kernels import deformable_dispatch as deformable_dispatch
from detrscope.ops.kernels import deformable_numba
from detrscope.ops.kernels.deformable_dispatch import VARIABLE, kernel_for
from tests.conftest import ROOT
from tests.support.deformable_inputs import SamplingInputs, by_definition, gradients, random_inputs

CPU_VARIABLES = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")


class Module(nn.Module):
    def __init__(self, of: SamplingInputs) -> None:
        super().__init__()
        self.of = of

    def forward(self, value: Tensor, points: Tensor, scores: Tensor) -> Tensor:
        return self.of.sample(value, points, scores)


@pytest.fixture(autouse=True)
def no_kernel_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("device", "dtype", "kernel"),
    [
        ("cpu", torch.float32, "numba"),
        ("cpu", torch.bfloat16, "numba"),
        ("cpu", torch.float64, "numba"),
        ("cpu", torch.float16, "reference"),
        ("mps", torch.float32, "reference"),
        ("cuda", torch.float64, "reference"),
    ],
)
def test_kernel_is_chosen_by_device_and_type(device: str, dtype: torch.dtype, kernel: str) -> None:
    assert kernel_for(device, dtype) == kernel


def test_use_kernel_overrides_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "reference")
    assert kernel_for("cpu", torch.float32) == "reference"
    with use_kernel("numba"):
        assert kernel_for("cpu", torch.float32) == "numba"
        with use_kernel("reference"):
            assert kernel_for("cpu", torch.float32) == "reference"
        assert kernel_for("cpu", torch.float32) == "numba"
    assert kernel_for("cpu", torch.float32) == "reference"


def test_without_numba_the_reference_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        deformable_dispatch, "_import_problem", lambda name: f"{name} cannot be imported (gone)"
    )
    assert kernel_for("cpu", torch.float32) == "reference"
    with use_kernel("numba"), pytest.raises(UserError, match=r"'numba': numba cannot be imported \(gone\)"):
        kernel_for("cpu", torch.float32)


def test_kernels_that_cannot_run_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    of = random_inputs()
    with use_kernel("triton"), pytest.raises(UserError, match="'triton': it does not run on cpu; request"):
        of.sample()
    with use_kernel("numba"), pytest.raises(UserError, match="values are float16 and it takes float32, bf"):
        of.sample(value=of.value.half())
    with pytest.raises(UserError, match="no kernel 'numbat'; did you mean 'numba'"), use_kernel("numbat"):  # type: ignore[arg-type]
        pass
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(
        UserError, match=f"{VARIABLE}: there is no kernel 'fast'; valid: numba, reference, triton"
    ):
        of.sample()


def test_choice_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(deformable_dispatch.log, "info", lambda text, *parts: logged.append(text % parts))
    deformable_dispatch._log_once.cache_clear()
    for _ in range(3):
        kernel_for("cpu", torch.float32)
        kernel_for("cpu", torch.float16)
    assert logged == [
        "deformable attention on cpu runs by numba: the fastest here",
        "deformable attention on cpu runs by reference: values are float16 and it takes float32, bfloat16, float64",
    ]


def test_half_precision_on_a_cpu() -> None:
    of = random_inputs(1).to(lambda x: x)
    found = of.sample(value=of.value.half())
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.double(), by_definition(of), rtol=0.01, atol=0.003)


@pytest.mark.parametrize("kernel", ["numba", "reference"])
def test_compiles_without_graph_breaks(kernel: str) -> None:
    of = random_inputs(2, queries=40)
    with use_kernel(kernel):
        compiled = torch.compile(Module(of), fullgraph=True, backend="aot_eager")
        inputs = [x.clone().requires_grad_() for x in of.tensors]
        out = compiled(*inputs)
        given = torch.randn(out.shape, generator=torch.Generator().manual_seed(5))
        found = (out, *torch.autograd.grad(out, inputs, given))
        for ours, eager in zip(found, gradients(of), strict=True):
            torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strict", [True, False])
def test_exported_graph_has_standard_operators_only(strict: bool) -> None:
    of = random_inputs(3, point_levels=(0, 0, 1, 2, 2))
    program = torch.export.export(Module(of), of.tensors, strict=strict)
    called = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert {f"{operator.namespace}" for operator in called} == {"aten"}  # type: ignore[union-attr]
    assert torch.ops.aten.grid_sampler.default in called
    torch.testing.assert_close(
        program.module()(*of.tensors).double(), by_definition(of), rtol=1e-5, atol=2e-6
    )


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning", "ignore::torch.jit.TracerWarning")
def test_traced_graph_has_standard_operators_only() -> None:
    of = random_inputs(4)
    graph = str(torch.jit.trace(Module(of), of.tensors, check_trace=False).inlined_graph)
    assert "aten::grid_sampler" in graph
    assert "detrscope::" not in graph


compile_afresh = deformable_numba.compiled_kernel.__wrapped__


def run(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_numba_is_imported_when_first_needed() -> None:
    code = (
        "import sys, detrscope.ops.deformable as door\n"
        "print(sorted({'numba', 'triton', 'llvmlite'} & set(sys.modules)))"
    )
    assert run(code) == "[]\n"


def test_kernels_are_cached_for_the_next_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("DETRSCOPE_CACHE", str(tmp_path))
    _, compiled = compile_afresh("forward", "f32", 3)
    assert compiled.cache_hits == 0
    code = (
        "from detrscope.ops.kernels.deformable_numba import compiled_kernel\n"
        "print(compiled_kernel('forward', 'f32', 3)[1].cache_hits)"
    )
    assert run(code, DETRSCOPE_CACHE=str(tmp_path)) == "1\n"


def test_kernels_are_cached_for_another_installation(tmp_path: Path) -> None:
    installations = [tmp_path / name for name in ("one", "other")]
    for installation in installations:
        shutil.copytree(
            ROOT / "src" / "detrscope",
            installation / "detrscope",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    code = (
        "from detrscope.ops.kernels.deformable_numba import compiled_kernel\n"
        "print(compiled_kernel('forward', 'f32', 3)[1].cache_hits)"
    )
    answers = [
        run(code, DETRSCOPE_CACHE=str(tmp_path / "cache"), PYTHONPATH=str(installation))
        for installation in installations
    ]
    assert answers == ["0\n", "1\n"]
    changed = installations[1] / "detrscope" / "ops" / "kernels" / "simd.py"
    changed.write_text(changed.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    assert run(code, DETRSCOPE_CACHE=str(tmp_path / "cache"), PYTHONPATH=str(installations[1])) == "0\n"


@pytest.mark.parametrize("trouble", ["no folder", "full disk"])
def test_compiles_where_the_cache_cannot_be_written(
    trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("DETRSCOPE_CACHE", str(tmp_path))
    if trouble == "no folder":
        (tmp_path / "file").touch()
        monkeypatch.setenv("DETRSCOPE_CACHE", str(tmp_path / "file" / "below"))
    else:
        monkeypatch.setattr(caching.IndexDataCacheFile, "save", raise_full_disk)
    kernel, compiled = compile_afresh("forward", "f32", 3)
    assert compiled.cache_hits == 0
    monkeypatch.setattr(deformable_numba, "compiled_kernel", lambda *_: (kernel, compiled))
    of = random_inputs(5, channels=3)
    torch.testing.assert_close(of.sample().double(), by_definition(of), rtol=1e-5, atol=2e-6)


def raise_full_disk(*_: object) -> None:
    raise OSError("no space left on device")


SAMPLE_EVERYTHING = """
import sys
from dataclasses import replace
import torch
from tests.conftest import ROOT
from tests.support.deformable_inputs import gradients, random_inputs
torch.set_num_threads(1)
found = []
for seed, channels in enumerate((20, 32)):
    of = random_inputs(seed, channels=channels)
    found += [gradients(of), gradients(replace(of, value=of.value.bfloat16()))]
torch.save(found, sys.argv[1])
"""


def sampled(folder: Path, **environment: str) -> list[tuple[Tensor, ...]]:
    """Outputs and gradients of a process with such an environment, its kernels compiled anew."""
    script = SAMPLE_EVERYTHING.replace("sys.argv[1]", repr(str(folder / "found.pt")))
    run(script, PYTHONPATH=os.pathsep.join(sys.path), DETRSCOPE_CACHE=str(folder), **environment)
    return torch.load(folder / "found.pt")


@pytest.fixture(scope="module")
def sampled_here(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Tensor, ...]]:
    return sampled(tmp_path_factory.mktemp("here"))


@pytest.mark.parametrize("cpu", [("haswell", "+avx2,+fma,-avx512f"), ("x86-64", ""), ("generic", "")])
def test_same_numbers_compiled_for_another_cpu(
    cpu: tuple[str, str], sampled_here: list[tuple[Tensor, ...]], tmp_path: Path
) -> None:
    if platform.machine() not in ("x86_64", "AMD64") and cpu[0] != "generic":
        pytest.skip("names a CPU of another architecture")
    there = sampled(tmp_path, **dict(zip(CPU_VARIABLES, cpu, strict=True)))
    for ours, theirs in zip(sampled_here, there, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            tolerance = 1e-2 if a.dtype == torch.bfloat16 else 1e-5
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
