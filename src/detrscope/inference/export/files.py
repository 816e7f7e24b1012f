"""Write exported models: ONNX in one file, OpenVINO in two, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from detrscope.core.errors import UserError
from detrscope.core.files import atomic_write

if TYPE_CHECKING:
    import onnx
    import openvino

Format = Literal["onnx", "openvino"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml"}
WEIGHTS = ".bin"  # beside an OpenVINO file
MAX_BYTES = (1 << 31) - 1  # of a protobuf message


@contextmanager
def writing_onnx(graph: onnx.ModelProto, path: Path) -> Iterator[Path]:
    """Write a graph under a temporary name, yield it to be checked, then rename it.

    Raises:
        UserError: the graph is larger than an ONNX file may be.
    """
    if graph.ByteSize() > MAX_BYTES:
        raise UserError(
            f"{path}: the model is larger than 2 GiB, the limit of an ONNX file; use format openvino"
        )
    with atomic_write(path) as temporary:
        temporary.write_bytes(graph.SerializeToString())
        yield temporary


@contextmanager
def writing_openvino(model: openvino.Model, path: Path, *, fp16: bool) -> Iterator[Path]:
    """Write a model under a temporary name, yield the .xml to be checked, then rename both files.

    Args:
        model: with its metadata.
        path: the .xml file; the weights go beside it.
        fp16: whether to store weights in half precision.
    """
    import openvino

    with atomic_write(path) as description, atomic_write(path.with_suffix(WEIGHTS)) as weights:
        beside = description.with_suffix(WEIGHTS)  # the name that OpenVINO gives the weights
        try:
            openvino.save_model(model, str(description), compress_to_fp16=fp16)
            yield description
            beside.replace(weights)
        finally:
            beside.unlink(missing_ok=True)
