"""The OpenVINO engine, for its own files and for ONNX files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from detrscope.core.errors import UserError
from detrscope.inference.engine import Precision
from detrscope.inference.graph_engine import Arrays, GraphEngine
from detrscope.inference.graph_interface import IMAGES, PREDICTIONS
from detrscope.inference.graph_metadata import KEY, GraphMetadata
from detrscope.inference.onnx_engine import without_input_defaults
from detrscope.inference.packages import require_packages
from detrscope.ops.kernels.native_precision import is_native_precision

if TYPE_CHECKING:
    import onnx
    import openvino

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
CAPABILITIES = {"bf16": "BF16", "fp16": "FP16"}


class OpenVinoEngine(GraphEngine):
    """A graph that OpenVINO runs on the CPU.

    A model whose images all have one size is compiled for one image of it, and what depends on the size only is then
    computed beforehand; batches, other sizes, records and edits run in the graph of any size, compiled when needed.

    Args:
        model: graph, with attention as the metadata say.
        metadata: metadata of the file.
        precision: precision of the computation; "auto" is that of the card's metrics where this CPU has it.
        source: file, for messages.

    Raises:
        UserError: a precision that this CPU does not have.
    """

    name = "openvino"

    def __init__(
        self, model: openvino.Model, metadata: GraphMetadata, precision: Precision, source: str | Path
    ) -> None:
        chosen = _choose(precision, metadata, source)
        super().__init__(metadata, "cpu", "int8" if metadata.precision == "int8" else chosen)
        self.model = model
        self._hint = HINTS[chosen]
        box = metadata.card.preprocessing.box if metadata.card.preprocessing.fit == "exact" else None
        self._shape = None if box is None else (1, 3, *box)  # of the images that it is compiled for
        self._requests: dict[tuple[bool, bool], Any] = {}  # with attention or without, of that shape or any
        self._source = source
        self._lock = Lock()
        self.request(attention=False, fixed=self._shape is not None)

    def run(self, inputs: Arrays, *, attention: bool) -> dict[str, np.ndarray]:
        """Run the graph; see `GraphEngine.run`."""
        fixed = not attention and inputs[IMAGES].shape == self._shape
        with self._lock:  # a request serves one call at a time, and the next call writes over its outputs
            results = self.request(attention=attention, fixed=fixed).infer(
                dict(inputs), share_inputs=True, share_outputs=True
            )
            return {port.any_name: np.array(x) for port, x in results.items()}

    def request(self, *, attention: bool, fixed: bool = False) -> Any:
        """Return OpenVINO's request for the graph.

        Args:
            attention: with records and edits.
            fixed: for one image of the model's own size; such a graph has no attention.
        """
        if (attention, fixed) not in self._requests:
            model = self.model if attention else without_attention(self.model)
            settings = {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": self._hint,
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            }
            try:
                if fixed:
                    assert self._shape is not None
                    fix_shape(model, self._shape)
                compiled = _core().compile_model(model, "CPU", settings)
            except RuntimeError as error:
                raise UserError(
                    f"{self._source}: OpenVINO cannot compile it in {self.precision} here ({_reason(error)})"
                ) from None
            self._requests[attention, fixed] = compiled.create_infer_request()
        return self._requests[attention, fixed]


@cache
def _core() -> Any:
    """Return the one `Core` of this process.

    On CPUs with AMX each Core gives its thread a stack for signals, and takes it away when it is deleted. Of two Cores
    the second puts back the stack of the first, which may be gone by then: the next signal, such as that of a worker of
    a DataLoader that ends, would kill the process.
    """
    import openvino

    return openvino.Core()


def cpu_precisions() -> tuple[str, ...]:
    """Return the precisions that OpenVINO computes natively on this CPU.

    OpenVINO asks the CPU what it has; `ONEDNN_MAX_CPU_ISA` may allow less, which torch's measured bf16 shows.
    """
    known = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    found = [name for name, capability in CAPABILITIES.items() if capability in known]
    return ("fp32", *(found if is_native_precision(torch.bfloat16) else ()))


def _choose(precision: Precision, metadata: GraphMetadata, source: str | Path) -> str:
    """Return the precision of the computation outside of quantised layers."""
    known = cpu_precisions()
    if metadata.precision == "int8":
        if precision not in ("auto", "int8"):
            raise UserError(f"{source}: its weights are int8; use precision auto or int8, found {precision}")
        return "bf16" if "bf16" in known else "fp32"
    if precision == "auto":
        return "bf16" if metadata.card.precision == "bf16" and "bf16" in known else "fp32"
    if precision not in known:
        raise UserError(
            f"{source}: engine openvino cannot compute it in {precision} here; this CPU has {', '.join(known)}"
            + ("; export with precision int8 for int8" if precision == "int8" else "")
        )
    return precision


def read_openvino(path: str | Path) -> tuple[openvino.Model, GraphMetadata]:
    """Read an OpenVINO file (.xml with its .bin).

    Raises:
        UserError: OpenVINO is not installed, or the file cannot be read or has no metadata of detrscope.
    """
    require_packages("an OpenVINO file", "openvino")
    try:
        model = _core().read_model(str(path))
    except RuntimeError as error:
        raise UserError(f"{path}: not a readable OpenVINO file ({_reason(error)})") from None
    text = model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else None
    return model, GraphMetadata.from_text(text, path)


def openvino_of_onnx(graph: onnx.ModelProto, metadata: GraphMetadata) -> openvino.Model:
    """Return an ONNX graph as an OpenVINO model; edits stay inputs, and have no default there."""
    require_packages("engine openvino", "openvino")
    import io

    model = _core().read_model(io.BytesIO(without_input_defaults(graph).SerializeToString()))
    set_openvino_metadata(model, metadata)
    return model


def set_openvino_metadata(model: openvino.Model, metadata: GraphMetadata) -> None:
    """Replace the metadata of a model."""
    model.set_rt_info(metadata.to_text(), KEY)


def without_attention(model: openvino.Model) -> openvino.Model:
    """Return the model with images as its only input and predictions as its only outputs; edits become constants."""
    from openvino import opset13

    plain = model.clone()
    for parameter in plain.get_parameters():
        name = parameter.output(0).any_name
        if name != IMAGES:
            neutral = 0.0 if name.endswith("_bias") else 1.0
            shape = [1 if axis.is_dynamic else axis.get_length() for axis in parameter.get_partial_shape()]
            constant = opset13.constant(np.full(shape, neutral, np.float32))
            parameter.output(0).replace(constant.output(0))
            plain.remove_parameter(parameter)
    for result in plain.get_results():
        if not any(name in PREDICTIONS for name in result.output(0).names | result.input_value(0).names):
            plain.remove_result(result)
    return plain


def fix_shape(model: openvino.Model, shape: tuple[int, ...]) -> None:
    """Make a graph without attention one for images of a shape.

    Parameters that are resized to the size of the image become constants, computed by the graph itself: OpenVINO's own
    way to fold them takes seconds for a resized position embedding.
    """
    import openvino
    from openvino import opset13

    resized = [
        node
        for node in model.get_ops()
        if node.get_type_name() == "Interpolate" and not _depends_on_images(node.input_value(0).get_node())
    ]
    if resized:
        part = openvino.Model([opset13.result(node.output(0)) for node in resized], model.get_parameters())
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        values = _core().compile_model(part, "CPU", settings)({IMAGES: np.zeros(shape, np.float32)})
        for node, value in zip(resized, list(values.values()), strict=True):
            node.output(0).replace(opset13.constant(np.array(value)).output(0))
    model.reshape({IMAGES: list(shape)})


def _depends_on_images(node: Any) -> bool:
    found, seen = [node], set()
    while found:
        node = found.pop()
        if node.get_type_name() == "Parameter":
            return True
        if node.get_friendly_name() not in seen:
            seen.add(node.get_friendly_name())
            found += [value.get_node() for value in node.input_values()]
    return False


def _reason(error: Exception) -> str:
    """Return the line of an OpenVINO error that says what happened; the others name its source files."""
    lines = [
        line for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from")
    ]
    return lines[0][:200] if lines else type(error).__name__
