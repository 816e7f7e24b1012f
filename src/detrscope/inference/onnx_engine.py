"""The ONNX Runtime engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from detrscope.core.errors import UserError
from detrscope.inference.engine import Precision
from detrscope.inference.graph_engine import Arrays, GraphEngine
from detrscope.inference.graph_interface import IMAGES, PREDICTIONS
from detrscope.inference.graph_metadata import KEY, GraphMetadata

if TYPE_CHECKING:
    import onnx

QUIET = 3  # ONNX Runtime logs errors only


class OnnxEngine(GraphEngine):
    """An ONNX graph that ONNX Runtime runs on the CPU.

    Args:
        graph: graph with metadata of detrscope.
        precision: "auto" or that of the file.
        source: file, for messages.

    Raises:
        UserError: ONNX Runtime is missing or cannot run the graph, or the precision is not that of the file.
    """

    name = "onnx"

    def __init__(self, graph: onnx.ModelProto, precision: Precision, source: str | Path) -> None:
        metadata = read_metadata(graph, source)
        computed = "int8" if metadata.precision == "int8" else "fp32"
        if precision not in ("auto", computed):
            raise UserError(
                f"{source}: engine onnx computes this file in {computed}, not in {precision}; use precision auto,"
                " or engine openvino"
            )
        super().__init__(metadata, "cpu", computed)
        self._graph, self._source = graph, source
        self._sessions: dict[bool, Any] = {}  # with attention or without
        self._session(False)

    def run(self, inputs: Arrays, *, attention: bool) -> dict[str, np.ndarray]:
        """Run the graph; see `GraphEngine.run`."""
        session = self._session(attention)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    def _session(self, attention: bool) -> Any:
        if attention not in self._sessions:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.log_severity_level = QUIET
            graph = self._graph if attention else without_attention(self._graph)
            try:
                self._sessions[attention] = onnxruntime.InferenceSession(
                    graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:  # its errors have no common base class
                raise UserError(
                    f"{self._source}: ONNX Runtime cannot run it ({str(error).strip().splitlines()[0][:200]})"
                ) from None
        return self._sessions[attention]


def read_onnx(path: str | Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        UserError: onnx is not installed, or the file cannot be read.
    """
    from detrscope.inference.packages import require_packages

    require_packages("an ONNX file", "onnx", "onnxruntime")
    import onnx

    try:
        return onnx.load(str(path))
    except Exception as error:  # protobuf's and onnx's errors have no common base class
        reason = str(error).strip().splitlines()
        raise UserError(
            f"{path}: not a readable ONNX file ({reason[0][:200] if reason else 'empty'})"
        ) from None


def without_input_defaults(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph whose edits are inputs without a default, for runtimes that know no other."""
    import onnx

    required = onnx.ModelProto()
    required.CopyFrom(graph)
    names = {value.name for value in required.graph.input}
    weights = [tensor for tensor in required.graph.initializer if tensor.name not in names]
    del required.graph.initializer[:]
    required.graph.initializer.extend(weights)
    return required


def read_metadata(graph: onnx.ModelProto, source: str | Path) -> GraphMetadata:
    """Return the metadata of detrscope in a graph.

    Raises:
        UserError: there is none, or it is malformed.
    """
    texts = {entry.key: entry.value for entry in graph.metadata_props}
    return GraphMetadata.from_text(texts.get(KEY), source)


def without_attention(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with images as its only input and predictions as its only outputs; edits become constants."""
    import onnx

    plain = onnx.ModelProto()
    plain.CopyFrom(graph)
    for values, kept in ((plain.graph.input, (IMAGES,)), (plain.graph.output, PREDICTIONS)):
        chosen = [value for value in values if value.name in kept]
        del values[:]
        values.extend(chosen)
    return plain
