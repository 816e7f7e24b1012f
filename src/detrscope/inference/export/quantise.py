"""Post-training quantisation to int8 by NNCF, with the parts that lose accuracy kept in more bits."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from detrscope.inference.graph_interface import IMAGES, GraphSite, edit_inputs
from detrscope.inference.packages import require_packages

if TYPE_CHECKING:
    import openvino


@dataclass(frozen=True)
class KeptParts:
    """Parts of a model that stay in floating point.

    Attributes:
        name: in words.
        patterns: regular expressions of module names.
    """

    name: str
    patterns: tuple[str, ...] = ()


HEADS = (r"heads", r"queries")
PLACES = (r".*\.(offsets|weights)", r"decoder\.position", r".*\.where_(query|key|scale)", r"decoder")
# From most to least int8; the first one whose AP is good enough is taken. Softmax and norms are never in int8.
CANDIDATES = (
    KeptParts("nothing (softmax and norms are never quantised)"),
    KeptParts("heads and queries", HEADS),
    KeptParts("heads, queries, sampling offsets, reference positions", HEADS + PLACES),
    KeptParts("heads, queries, decoder", (*HEADS, *PLACES, r"decoder\..*")),
    KeptParts("all but the backbone", (*HEADS, *PLACES, r"decoder\..*", r"encoder.*", r"neck.*")),
)


def quantise(
    model: openvino.Model, images: Sequence[Tensor], specs: Sequence[GraphSite], kept: KeptParts
) -> openvino.Model:
    """Return a model whose weights and activations are int8, calibrated on images.

    Args:
        model: in floating point.
        images: normalised images [3, h, w], of any sizes.
        specs: attention sites whose edits are inputs of the model; none where it has no such inputs.
        kept: parts that stay in floating point.

    Raises:
        UserError: nncf is not installed.
    """
    require_packages("int8", "nncf")
    with _quiet():
        import nncf

        edits = {spec.site: spec.neutral_edit() for spec in specs}
        neutral = {name: x.numpy() for name, x in edit_inputs(edits).items()}

        def inputs(image: Tensor) -> dict[str, np.ndarray]:
            return {IMAGES: image[None].numpy(), **neutral}

        scope = None
        if kept.patterns:
            names = [op.get_friendly_name() for op in model.get_ops()]
            found = [name for name in names if any(re.fullmatch(p, _module(name)) for p in kept.patterns)]
            scope = nncf.IgnoredScope(names=found)
        quantised: Any = nncf.quantize(
            model.clone(),
            nncf.Dataset(list(images), inputs),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(images),
            ignored_scope=scope,
        )
    return quantised


def quantised_parts(model: openvino.Model) -> dict[str, int]:
    """Return the number of int8 operators by part of the path, such as `backbone`."""
    counts: dict[str, int] = {}
    for op in model.get_ops():
        if op.get_type_name() == "FakeQuantize":
            part = _module(op.get_friendly_name()).partition(".")[0]
            counts[part] = counts.get(part, 0) + 1
    return counts


def _module(name: str) -> str:
    """Return the module of an operator from its name, such as `decoder.layers.0/node_linear_5`."""
    return name.partition("/")[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the notes of NNCF, and keep its progress bars off standard output."""
    import nncf  # noqa: F401, sets the level of its logger

    loggers = [logging.getLogger(name) for name in ("nncf", "torch.utils.cpp_extension")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with redirect_stdout(sys.stderr):  # its progress bars; standard output is for results
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
