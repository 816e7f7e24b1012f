"""A model as an ONNX graph: dynamic batch and size, names for inputs, outputs and nodes, metadata inside."""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.export import Dim

from detrscope.blocks.path import DetectionTransformer
from detrscope.core.errors import UserError
from detrscope.core.model_card import ModelCard
from detrscope.inference.export.forward import (
    ForwardWithAttention,
    PlainForward,
    make_sample,
)
from detrscope.inference.graph_interface import IMAGES
from detrscope.inference.graph_metadata import KEY, GraphMetadata

if TYPE_CHECKING:
    import onnx

OPSET = 20
SAMPLE_SIDES = (256, 320)  # pixels; unequal, and large enough for the queries of all variants
SYMBOLS = ("batch", "height", "width")


def build_onnx(model: DetectionTransformer, card: ModelCard, *, attention: bool) -> onnx.ModelProto:
    """Return the ONNX graph of a model.

    Args:
        model: in float32 on the CPU; set to evaluation, its norms are folded into convolutions.
        card: its card, which goes into the metadata.
        attention: whether records become outputs and edits inputs.

    Raises:
        UserError: onnx or onnxscript is not installed.
    """
    require_packages("export", "onnx", "onnxscript")
    model.eval().requires_grad_(False)
    model.fold_norms()
    sample = make_sample(model, *SAMPLE_SIDES)
    metadata = GraphMetadata(card, sample.specs, attention, sample.any_class)
    if attention:
        module: nn.Module = ForwardWithAttention(model, sample.specs)
        edits = ForwardWithAttention(model, sample.specs).neutral_inputs()
        arguments: tuple[Any, ...] = (sample.images, edits)
    else:
        module, edits, arguments = PlainForward(model), {}, (sample.images,)
    with torch.no_grad(), _quiet():
        names = list(module(*arguments))
        program = torch.export.export(
            module,
            arguments,
            dynamic_shapes=_dynamic_shapes(edits),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,  # sizes are checked by the operators themselves
        )
        converted = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[IMAGES, *edits],
            output_names=names,
            verbose=False,
        )
    assert converted is not None
    graph: onnx.ModelProto = converted.model_proto
    _tidy(graph, edits)
    set_metadata(graph, metadata)
    return graph


def set_metadata(graph: onnx.ModelProto, metadata: GraphMetadata) -> None:
    """Replace the metadata of a graph."""
    kept = [(entry.key, entry.value) for entry in graph.metadata_props if entry.key != KEY]
    del graph.metadata_props[:]
    for key, value in [*kept, (KEY, metadata.to_text())]:
        graph.metadata_props.add(key=key, value=value)


def require_packages(purpose: str, *names: str) -> None:
    """Check that optional packages are installed.

    Raises:
        UserError: one is missing; says what to install.
    """
    from importlib.util import find_spec

    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{purpose} needs the package {' and '.join(missing)}; install it with: pip install 'detrscope[deploy]'"
        )


def _dynamic_shapes(edits: Mapping[str, object]) -> dict[str, Any]:
    images = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    return {IMAGES: images, "edits": {name: {} for name in edits}} if edits else {IMAGES: images}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the notes of the exporter, which name its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch.fx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _tidy(graph: onnx.ModelProto, edits: Mapping[str, torch.Tensor]) -> None:
    """Name nodes after their modules and axes after what they are; give edits their neutral values as defaults."""
    from onnx import numpy_helper

    for node in graph.graph.node:
        scope = _scope(node)
        node.name = f"{scope}/{node.name}" if scope else node.name
        del node.metadata_props[:]  # has paths of source files
    del graph.graph.value_info[:]  # their sizes hold for neutral edits only
    for value in graph.graph.input:
        if value.name == IMAGES:
            axes = value.type.tensor_type.shape.dim
            for axis, symbol in zip((0, 2, 3), SYMBOLS, strict=True):
                axes[axis].dim_param = symbol
        elif not value.name.endswith(("point_gain", "point_bias")):
            value.type.tensor_type.shape.dim[1].dim_param = f"{value.name}.size"  # 1, or that of the map
    for value in graph.graph.output:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:  # a formula of torch's own symbols
                axis.Clear()
    for name, neutral in edits.items():
        graph.graph.initializer.append(numpy_helper.from_array(neutral.numpy(), name))


def _scope(node: onnx.NodeProto) -> str:
    """Return the module that a node comes from, such as `decoder.layers.0.cross_attention`."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = [s for s in ast.literal_eval(entry.value)[:-1] if s and not s.startswith("_")]
            return str(scopes[-1]).removeprefix("model.") if scopes else ""
    return ""
