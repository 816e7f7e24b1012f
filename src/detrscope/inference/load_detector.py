"""Load a detector by name: variants, checkpoints, run folders, Hugging Face ids, exported models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detrscope.checkpoints.load import RANDOM_SEED, load_model, seeded_load
from detrscope.console import log
from detrscope.core.argument_check import check_arguments_of, check_field_arguments
from detrscope.core.classes import ClassTable
from detrscope.core.edits import Edit
from detrscope.core.errors import UserError
from detrscope.inference.detector import Detector
from detrscope.inference.engine import EngineName, Precision
from detrscope.inference.open_engine import (
    check_exported_arguments,
    is_exported,
    open_engine,
    open_exported,
)
from detrscope.inference.torch_engine import choose_device


@check_arguments_of
def load(
    name_or_path: str | Path,
    *,
    weights: str | Path | None = None,
    classes: ClassTable | Sequence[str] | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    engine: EngineName = "auto",
) -> Detector:
    """Load a detector by variant name, checkpoint, run folder, Hugging Face folder or id.

    Args:
        name_or_path: such as `detr-r50`, `run/`, `best.safetensors`, `detr-r50-e632da11.pth`,
            `facebook/detr-resnet-50`, the URL of a weights file, or an exported `model.onnx` or `model.xml`.
        weights: for a variant name: a weights file or its URL instead of the published one, or "random".
        classes: class names (ids 0, 1, ...) or a ClassTable; where they are not the checkpoint's own, the class head is
            reset and the rows that were kept are logged.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", "mps".
        precision: "fp32", "bf16", "fp16", or "int8" for a file exported in it; "auto" is the one that the model was
            trained and measured in where the device computes it natively, else fp32: published models keep the figures
            of their papers.
        engine: engine that runs the model: "torch", "torch-compile", "onnx" (ONNX Runtime), "openvino"; "auto" is torch
            for checkpoints, and for exported models openvino where it is installed, else onnx.

    Raises:
        UserError: unknown name, device, precision or engine, or weights that do not fit.
    """
    if is_exported(name_or_path):
        check_exported_arguments(name_or_path, device, {"weights": weights, "classes": classes})
        exported = open_exported(name_or_path, engine, precision)
        log.info("%s: engine %s, precision %s", name_or_path, exported.name, exported.precision)
        return Detector(exported, exported.metadata.card)
    choose_device(device)  # a wrong name is an error before anything is loaded
    if classes is not None and not isinstance(classes, ClassTable):
        name, count = next(iter(Counter(classes).most_common(1)), ("", 0))
        if count > 1:
            raise UserError(f"load: classes: '{name}' is given more than once")
        classes = ClassTable.of_names(classes)
    if classes is not None and not len(classes):
        raise UserError("load: classes: expected at least one class, found none")
    with seeded_load(RANDOM_SEED):  # of a class head that is reset
        loaded = load_model(name_or_path, weights=weights, classes=classes)
    for line in loaded.report.lines():
        log.info(line)
    return Detector(open_engine(loaded, device, engine, precision), loaded.card)


@check_field_arguments
@dataclass(frozen=True)
class LoadOptions:
    """How to load a model that is given by name; see `load`.

    Attributes:
        weights: for a variant name: a weights file instead of the published one, or "random".
        device: device to run on.
        precision: precision to compute in.
        engine: engine that runs the model.
        edits: interventions in every forward pass; see `Detector.edited`.
    """

    weights: str | Path | None = None
    device: str = "auto"
    precision: Precision = "auto"
    engine: EngineName = "auto"
    edits: tuple[Edit, ...] = ()


LOAD_DEFAULTS = LoadOptions()


def open_detector(model: str | Path | Detector, options: LoadOptions = LOAD_DEFAULTS) -> Detector:
    """Return the detector that a name or path stands for, or the detector itself.

    Raises:
        UserError: see `load`; or options that a loaded detector cannot follow.
    """
    if isinstance(model, str | Path):
        named = {name: value for name, value in vars(options).items() if name != "edits"}
        detector = load(model, **named)
        return detector.edited(options.edits) if options.edits else detector
    if options != LOAD_DEFAULTS:
        raise UserError("load_options: have no effect on a detector, which is loaded already; leave them out")
    return model
