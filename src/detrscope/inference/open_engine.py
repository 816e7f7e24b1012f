"""The engine that a name asks for: PyTorch, or an exported graph in ONNX Runtime or OpenVINO."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from os.path import isfile
from pathlib import Path
from typing import TYPE_CHECKING

from detrscope.checkpoints.native import Loaded
from detrscope.core.errors import UserError
from detrscope.inference.engine import Engine, EngineName, Precision
from detrscope.inference.graph_engine import GraphEngine
from detrscope.inference.torch_engine import (
    CompiledTorchEngine,
    TorchEngine,
    choose_device,
    choose_dtype,
)

if TYPE_CHECKING:
    import onnx

TORCH_ENGINES: dict[EngineName, type[TorchEngine]] = {
    "torch": TorchEngine,
    "torch-compile": CompiledTorchEngine,
}
EXPORTED = (".onnx", ".xml")  # suffixes of exported models


def is_exported(name_or_path: str | Path) -> bool:
    """Return whether a name is that of an exported model's file."""
    return Path(name_or_path).suffix.lower() in EXPORTED and isfile(
        name_or_path
    )  # False for impossible names


def open_exported(path: str | Path, engine: EngineName, precision: Precision) -> GraphEngine:
    """Return the engine for an exported file.

    An OpenVINO file (.xml) runs in OpenVINO. "auto" runs an ONNX file in OpenVINO too where it is installed, which was
    faster than ONNX Runtime in docs/benchmarks.md, else in ONNX Runtime.

    Raises:
        UserError: an engine that cannot run the file, a missing package, or a file that cannot be read.
    """
    if engine in ("torch", "torch-compile"):
        raise UserError(
            f"{path}: engine {engine} runs checkpoints, not exported models; use onnx or openvino"
        )
    if Path(path).suffix.lower() == ".xml":
        if engine == "onnx":
            raise UserError(f"{path}: is an OpenVINO file; use engine openvino, or export to format onnx")
        from detrscope.inference.openvino_engine import OpenVinoEngine, read_openvino

        opened: GraphEngine = OpenVinoEngine(*read_openvino(path), precision, path)
    else:
        from detrscope.inference.onnx_engine import read_onnx

        opened = _run_onnx(read_onnx(path), engine, precision, path)
    return opened


def open_engine(loaded: Loaded, device: str, engine: EngineName, precision: Precision) -> Engine:
    """Return the engine that runs a loaded checkpoint; the model may be changed.

    Raises:
        UserError: a device, precision or engine that this machine does not have.
    """
    if engine in ("onnx", "openvino"):
        _check_cpu(device, engine)
        if precision == "int8":
            raise UserError(
                "precision int8 is for exported models, which are calibrated on images; export with precision int8"
            )
        from detrscope.inference.export.cache import convert_cached

        return _run_onnx(convert_cached(loaded.model, loaded.card), engine, precision, loaded.card.variant)
    torch_device = choose_device(device)
    dtype = choose_dtype(precision, loaded.card, torch_device)
    return TORCH_ENGINES.get(engine, TorchEngine).optimised(loaded.model, torch_device, dtype)


def check_exported_arguments(path: str | Path, device: str, given: Mapping[str, object]) -> None:
    """Check that nothing is asked of an exported model that only a checkpoint can do.

    Raises:
        UserError: weights or other classes are given, or a device other than the CPU.
    """
    for name, value in given.items():
        if value is not None:
            raise UserError(
                f"{name}: an exported model ({path}) has its own; leave it out, or load the checkpoint"
            )
    _check_cpu(device, "of an exported model")


def _check_cpu(device: str, engine: str) -> None:
    if device not in ("auto", "cpu"):
        raise UserError(f"device '{device}': engine {engine} runs on the CPU; use device auto or cpu")


def _run_onnx(
    graph: onnx.ModelProto, engine: EngineName, precision: Precision, source: str | Path
) -> GraphEngine:
    from detrscope.inference.onnx_engine import OnnxEngine, read_metadata

    if engine == "openvino" or (engine == "auto" and find_spec("openvino") is not None):
        from detrscope.inference.openvino_engine import OpenVinoEngine, openvino_of_onnx

        metadata = read_metadata(graph, source)
        return OpenVinoEngine(openvino_of_onnx(graph, metadata), metadata, precision, source)
    return OnnxEngine(graph, precision, source)
