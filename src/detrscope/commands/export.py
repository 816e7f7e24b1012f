"""Export a model to ONNX or OpenVINO; a file that disagrees with PyTorch is not written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from detrscope.checkpoints.load import RANDOM_SEED, load_model, seeded_load
from detrscope.checkpoints.native import Loaded
from detrscope.commands.export_int8 import INT8_DEFAULTS, Attempt, Int8Options, Int8Search
from detrscope.console import log
from detrscope.core.errors import UserError, WorkFailed
from detrscope.core.files import check_writable_file
from detrscope.data.dataset import DetectionDataset
from detrscope.data.image_reader import read_image
from detrscope.data.open_dataset import open_dataset
from detrscope.inference.export.check import (
    CONFIDENT,
    TOLERANCES,
    Difference,
    NamedImage,
    Tolerance,
    compare_detections,
)
from detrscope.inference.export.files import SUFFIXES, Format, writing_onnx, writing_openvino
from detrscope.inference.export.onnx_graph import build_onnx, set_metadata
from detrscope.inference.graph_metadata import GraphMetadata, WeightPrecision
from detrscope.inference.onnx_engine import read_metadata
from detrscope.inference.open_engine import is_exported, open_exported
from detrscope.inference.packages import require_packages
from detrscope.inference.torch_engine import TorchEngine
from detrscope.lens.drift import AttentionDrift
from detrscope.synthetic.scene import draw_scene

if TYPE_CHECKING:
    import onnx
    import openvino

DRAWN = (160, 224, 320)  # sides of the drawn images to compare on, where none are given
CHECKED = 8  # images of a dataset to compare on


@dataclass(frozen=True)
class ExportResult:
    """What was written and how it compares with PyTorch.

    Attributes:
        path: the file; of an OpenVINO model the .xml.
        differences: differences of detections in each image.
        tolerance: accepted differences; None for int8, which is judged by its AP.
        ap: AP of PyTorch on the dataset, for int8.
        attempts: int8 models that were tried, the written one last.
        drift: drift of attention, for int8 with attention.
    """

    path: Path
    differences: list[Difference]
    tolerance: Tolerance | None
    ap: float | None = None
    attempts: list[Attempt] = field(default_factory=list)
    drift: list[AttentionDrift] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return asdict(self) | {"path": str(self.path)}


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        format: "onnx" or "openvino"; None is that of the suffix of `out`.
        precision: precision of the weights; "fp16" and "int8" are for OpenVINO.
        with_attention: make attention records outputs and edits inputs.
        int8: images for int8 and the AP that it may lose.
    """

    format: Format | None = None
    precision: WeightPrecision = "fp32"
    with_attention: bool = False
    int8: Int8Options = INT8_DEFAULTS


EXPORT_DEFAULTS = ExportOptions()


def export(
    model: str | Path,
    out: str | Path | None = None,
    *,
    options: ExportOptions = EXPORT_DEFAULTS,
    images: Sequence[str | Path] = (),
    data: str | Path | DetectionDataset | None = None,
    split: str = "val",
    weights: str | Path | None = None,
) -> ExportResult:
    """Export a model and compare its detections with PyTorch's; write it only if they agree.

    Args:
        model: variant, checkpoint, run folder, Hugging Face folder or id.
        out: file; by default the variant's name with the suffix of the format.
        options: format, precision and attention.
        images: images to compare on; by default those of `data`, else drawn ones.
        data: dataset to compare on; int8 is calibrated on it, and its AP is measured.
        split: split of the dataset to compare and measure on.
        weights: for a variant name: a weights file instead of the published one, or "random".

    Returns:
        The file and the differences.

    Raises:
        UserError: a wrong argument, or a missing package.
        WorkFailed: the exported model differs from PyTorch beyond the tolerance; nothing is written.
    """
    kind = _format(options, out)
    _check(model, options, kind, data)
    if split != "val" and data is None:
        raise UserError(f"split {split}: is a split of the data, but no data was given")
    dataset = None if data is None else _dataset(data, split)
    named = [NamedImage(str(image), read_image(image)) for image in images]
    require_packages("export", "onnx", "onnxscript", "onnxruntime" if kind == "onnx" else "openvino")
    with seeded_load(RANDOM_SEED):
        loaded = load_model(model, weights=weights)
    path = Path(out) if out is not None else Path(f"{loaded.card.variant}{SUFFIXES[kind]}")
    check_writable_file(path)
    log.info("building the graph of %s", loaded.card.variant)
    graph = build_onnx(loaded.model, loaded.card, attention=options.with_attention)
    metadata = replace(read_metadata(graph, path), precision=options.precision)
    reference = TorchEngine.optimised(loaded.model, torch.device("cpu"), torch.float32)
    writer = _Writer(reference, loaded, metadata, named or _images(dataset), path, kind)
    if options.precision == "int8":
        assert dataset is not None
        assert data is not None
        network = _openvino(graph, metadata)
        search = Int8Search(
            reference, metadata, dataset, _dataset(data, options.int8.calibration_split), options.int8
        )
        quantised, attempts, ap = search(network, path)
        result = replace(writer.write(quantised, None), attempts=attempts, ap=ap)
        return replace(result, drift=search.drift(quantised, path)) if options.with_attention else result
    return writer.write(
        graph if kind == "onnx" else _openvino(graph, metadata), TOLERANCES[options.precision]
    )


class _Writer:
    """Write a model to a temporary file, compare it with PyTorch, rename the file if it agrees."""

    def __init__(
        self,
        reference: TorchEngine,
        loaded: Loaded,
        metadata: GraphMetadata,
        images: Sequence[NamedImage],
        path: Path,
        kind: Format,
    ) -> None:
        self.reference, self.card, self.metadata = reference, loaded.card, metadata
        self.images, self.path, self.kind = images, path, kind

    def write(self, model: onnx.ModelProto | openvino.Model, tolerance: Tolerance | None) -> ExportResult:
        """Write the model.

        Raises:
            WorkFailed: it differs from PyTorch beyond the tolerance.
        """
        fp16 = self.metadata.precision == "fp16"
        set_any_metadata(model, self.metadata)
        writing = (
            writing_onnx(model, self.path)
            if self.kind == "onnx"
            else writing_openvino(model, self.path, fp16=fp16)
        )
        with writing as temporary:
            engine = open_exported(
                temporary, self.kind, "int8" if self.metadata.precision == "int8" else "fp32"
            )
            differences = compare_detections(
                self.reference,
                engine,
                self.card,
                self.images,
                tolerance or TOLERANCES["fp16"],
                CONFIDENT if tolerance is None else 0.0,
            )
            if tolerance is not None and (failed := [d for d in differences if d.exceeds(tolerance)]):
                worst = max(failed, key=lambda d: (d.other_classes, d.score / tolerance.score, d.box, d.mask))
                raise ExportDisagrees(
                    f"{self.path}: not written: detections differ from PyTorch's in {len(failed)} of"
                    f" {len(differences)} comparisons, most in {worst.image} at {worst.width}x{worst.height}: score by"
                    f" {worst.score:.2g} (accepted {tolerance.score:g}), box by {worst.box:.2g} pixels (accepted"
                    f" {tolerance.box:g}), masks by {worst.mask:.2g} (accepted {tolerance.mask:g}),"
                    f" {worst.other_classes} of another class",
                    differences,
                    tolerance,
                )
        return ExportResult(self.path, differences, tolerance)


class ExportDisagrees(WorkFailed):
    """An exported model that differs from PyTorch; has the differences in each image."""

    def __init__(self, message: str, differences: list[Difference], tolerance: Tolerance) -> None:
        super().__init__(message)
        self.differences, self.tolerance = differences, tolerance


def set_any_metadata(model: onnx.ModelProto | openvino.Model, metadata: GraphMetadata) -> None:
    """Replace the metadata of a model of either format."""
    from detrscope.inference.openvino_engine import set_openvino_metadata

    if hasattr(model, "metadata_props"):
        set_metadata(model, metadata)
    else:
        set_openvino_metadata(model, metadata)


def _openvino(graph: onnx.ModelProto, metadata: GraphMetadata) -> openvino.Model:
    from detrscope.inference.openvino_engine import openvino_of_onnx

    return openvino_of_onnx(graph, metadata)


def _format(options: ExportOptions, out: str | Path | None) -> Format:
    """Return the format: the one asked for, which the suffix must fit, else that of the suffix, else ONNX."""
    suffix = None if out is None else Path(out).suffix.lower()
    by_suffix: dict[str, Format] = {s: name for name, s in SUFFIXES.items()}
    if suffix is not None and suffix not in by_suffix:
        raise UserError(f"{out}: expected a name that ends in {' or '.join(by_suffix)}")
    if options.format is None:
        return "onnx" if suffix is None else by_suffix[suffix]
    if suffix is not None and by_suffix[suffix] != options.format:
        raise UserError(
            f"{out}: format {options.format} is written to a file that ends in {SUFFIXES[options.format]}"
        )
    return options.format


def _check(
    model: str | Path, options: ExportOptions, kind: Format, data: str | Path | DetectionDataset | None
) -> None:
    if is_exported(model):
        raise UserError(f"{model}: is an exported model already; export the checkpoint it was made from")
    if options.precision != "fp32" and kind == "onnx":
        raise UserError(
            f"precision {options.precision}: is for format openvino; ONNX Runtime computes float32 on CPUs"
        )
    if options.precision == "int8" and data is None:
        raise UserError(
            "precision int8: needs a dataset to calibrate on and to measure AP with; give data, such as coco:DIR"
        )
    if options.precision != "int8" and options.int8 != INT8_DEFAULTS:
        raise UserError(
            f"calibration, calibration_split, evaluated, max_ap_loss: are for precision int8, found"
            f" {options.precision}; leave them out"
        )


def _dataset(data: str | Path | DetectionDataset, split: str) -> DetectionDataset:
    return data if isinstance(data, DetectionDataset) else open_dataset(str(data), split)


def _images(dataset: DetectionDataset | None) -> list[NamedImage]:
    if dataset is not None:
        return [NamedImage(i.path.name, read_image(i.path)) for i in dataset.images[:CHECKED]]
    drawn = []
    for number, side in enumerate(DRAWN):
        image = torch.from_numpy(draw_scene(seed=0, index=number, size=side).image).permute(2, 0, 1)
        image = image[:, : side * (4 - number) // 4].contiguous()  # of another shape each
        drawn.append(NamedImage(f"drawn image {number + 1}", image))
    return drawn
