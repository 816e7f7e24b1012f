"""Report the versions and devices of this machine, and what `auto` selects on it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

import torch

from detrscope._version import __version__
from detrscope.core.files import cache_folder
from detrscope.ops.kernels import freed_memory, native_precision
from detrscope.ops.kernels.deformable_dispatch import FASTEST, kernel_for, why_not

PACKAGES = ("torch", "torchvision", "lightning", "numba", "numpy", "scipy", "hotcoco", "av")
# package, purpose, how to install it
OPTIONAL = (
    ("transformers", "parity tests against Hugging Face models", 'pip install "detrscope[test]"'),
    ("pycocotools", "AP tests against the reference", 'pip install "detrscope[test]"'),
    ("supervision", "detections for its trackers and annotators", 'pip install "detrscope[supervision]"'),
    ("onnxruntime", "engine onnx", 'pip install "detrscope[deploy]"'),
    ("openvino", "engine openvino", 'pip install "detrscope[deploy]"'),
    ("onnx", "export", 'pip install "detrscope[deploy]"'),
    ("nncf", "export to int8", 'pip install "detrscope[deploy]"'),
    ("triton", "kernels of deformable attention on a GPU", "comes with torch on Linux"),
)
VARIABLES = (
    "ONEDNN_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
    "OMP_NUM_THREADS",
    "DETRSCOPE_DEFORMABLE",
    native_precision.SWITCH,
    freed_memory.SWITCH,
)


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    topic: str
    name: str
    value: str
    reason: str = ""


def examine_machine() -> list[Finding]:
    """Return all findings about this machine, in the order of the report."""
    return [*_versions(), *_devices(), *_speeds(), *_choices(), *_optional(), *_folders()]


def _versions() -> Iterator[Finding]:
    yield Finding("versions", "detrscope", __version__)
    yield Finding("versions", "Python", platform.python_version(), platform.platform())
    for package in PACKAGES:
        yield Finding("versions", package, version_of(package) or "missing")


def version_of(package: str) -> str | None:
    """Return the version of a package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> Iterator[Finding]:
    yield Finding(
        "devices", "CPU", platform.machine(), f"torch's kernels: {torch.backends.cpu.get_cpu_capability()}"
    )
    yield Finding(
        "devices", "threads", str(torch.get_num_threads()), f"{os.cpu_count()} cores in the machine"
    )
    onednn = "yes" if native_precision.has_onednn() else "no"
    yield Finding("devices", "oneDNN", onednn, "convolutions and products of the CPU")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield Finding("devices", f"cuda:{index}", torch.cuda.get_device_name(index))
    else:
        yield Finding("devices", "cuda", "no", "no GPU that this torch can use")
    if torch.backends.mps.is_available():
        yield Finding("devices", "mps", "yes")
    for name in VARIABLES:
        if name in os.environ:
            yield Finding("devices", name, os.environ[name], "set in the environment")


def _speeds() -> Iterator[Finding]:
    for name, dtype in native_precision.DTYPES.items():
        base, cost = native_precision.precision_costs(dtype)
        if dtype == torch.float32:
            reason = "the reference of the others"
        else:
            native = "native" if native_precision.is_native_precision(dtype) else "emulated, or no faster"
            times = f"{cost.product / base.product:.2g} and {cost.convolution / base.convolution:.2g}"
            reason = f"{native}: {times} times the time of fp32"
        value = f"product {cost.product * 1e3:.3g} ms, convolution {cost.convolution * 1e3:.3g} ms"
        yield Finding("speed of the CPU", name, value, reason)


def _choices() -> Iterator[Finding]:
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    topic = "what auto selects"
    yield Finding(topic, "device", device.type, "a GPU where there is one")
    training = native_precision.fastest_precision(device)
    yield Finding(topic, "precision, training", training, "the fastest that is native")
    yield Finding(
        topic,
        "precision, detection",
        f"{training} or fp32" if training != "fp32" else "fp32",
        "the checkpoint's training precision where native, else fp32, so that published AP is reproduced",
    )
    yield Finding(topic, "engine", "torch")
    fused = "oneDNN" if native_precision.onednn_convolves(torch.float32) else "torch"
    yield Finding(topic, "convolution + norm + ReLU", fused, "in one pass where oneDNN has it")
    products = "oneDNN" if native_precision.onednn_multiplies(torch.float32) else "torch"
    yield Finding(topic, "linear layers, fp32", products, "oneDNN where it is clearly faster")
    kept = "kept for the next" if freed_memory.keep_freed_memory() else "given back to the system"
    yield Finding(
        topic, "memory of freed tensors, CPU", kept, "kept where glibc's allocator has its defaults"
    )
    muon = "bf16" if native_precision.multiplies_fast(torch.bfloat16) else "fp32"
    yield Finding(topic, "Muon's iteration on the CPU", muon, "the faster of the two")
    for kind in dict.fromkeys(("cpu", device.type)):
        chosen = kernel_for(kind, torch.float32)
        fastest = FASTEST.get(kind, "reference")
        reason = why_not(fastest, kind, torch.float32) or "the fastest here"
        yield Finding(topic, f"deformable attention on {kind}", chosen, reason)


def _optional() -> Iterator[Finding]:
    for package, purpose, remedy in OPTIONAL:
        version = version_of(package)
        yield Finding(
            "optional", package, version or "missing", purpose if version else f"{purpose}: {remedy}"
        )


def _folders() -> Iterator[Finding]:
    folder = cache_folder()
    parent = next(p for p in (folder, *folder.parents) if p.exists())
    writable = (
        "writable" if os.access(parent, os.W_OK) else "not writable: set DETRSCOPE_CACHE to another folder"
    )
    yield Finding("folders", "cache", str(folder), f"downloads and compiled kernels; {writable}")
