"""Quantise a model to int8 with as few parts in floating point as its AP allows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detrscope.console import log
from detrscope.core.errors import UserError, WorkFailed
from detrscope.data.dataset import DetectionDataset
from detrscope.data.image_reader import read_image
from detrscope.evaluation.evaluator import Evaluator
from detrscope.explain.attention_drift import measure_attention_drift
from detrscope.inference.engine import Engine
from detrscope.inference.export.check import NamedImage
from detrscope.inference.export.quantise import CANDIDATES, KeptParts, quantise, quantised_parts
from detrscope.inference.graph_engine import GraphEngine
from detrscope.inference.graph_metadata import GraphMetadata
from detrscope.lens.drift import AttentionDrift

if TYPE_CHECKING:
    import openvino

DRIFT_IMAGES = 16  # most images whose attention is compared


@dataclass(frozen=True)
class Int8Options:
    """Images for int8, and the AP that it may lose.

    Attributes:
        calibration: number of images that calibrate it, the first ones of their split.
        calibration_split: that split of the dataset.
        evaluated: number of images that its AP is measured on; 0 is all of the split.
        max_ap_loss: AP that it may lose, of 1.
    """

    calibration: int = 100
    calibration_split: str = "train"
    evaluated: int = 0
    max_ap_loss: float = 0.015


INT8_DEFAULTS = Int8Options()


@dataclass(frozen=True)
class Attempt:
    """An int8 model and its AP."""

    kept: KeptParts
    ap: float
    parts: dict[str, int]  # number of int8 operators by part of the path


class Int8Search:
    """Quantisation with more and more parts in floating point, until AP loses little enough.

    Args:
        reference: PyTorch.
        metadata: metadata of the exported model.
        dataset: images to measure AP on.
        calibration: images to calibrate on.
        options: numbers of images, and the AP that may be lost.
    """

    def __init__(
        self,
        reference: Engine,
        metadata: GraphMetadata,
        dataset: DetectionDataset,
        calibration: DetectionDataset,
        options: Int8Options,
    ) -> None:
        self.reference, self.metadata, self.options = reference, metadata, options
        self.dataset = dataset.subset([image.id for image in dataset.images[: options.evaluated or None]])
        self.calibration = calibration.images[: options.calibration]
        self.evaluator = Evaluator(self.dataset, metadata.card, batch_size=1)

    def __call__(self, model: openvino.Model, path: Path) -> tuple[openvino.Model, list[Attempt], float]:
        """Return the int8 model, all attempts (its own is the last) and PyTorch's AP.

        Raises:
            WorkFailed: AP falls too much whatever is kept in floating point.
        """
        preprocessing = self.metadata.card.preprocessing
        images = [preprocessing.apply(read_image(image.path)) for image in self.calibration]
        specs = self.metadata.sites if self.metadata.attention else ()
        before = self._ap(self.reference)
        attempts: list[Attempt] = []
        for kept in CANDIDATES:
            log.info("quantising; in floating point: %s", kept.name)
            quantised = quantise(model, images, specs, kept)
            ap = self._ap(self._engine(quantised, path))
            attempts.append(Attempt(kept, ap, quantised_parts(quantised)))
            log.info("AP %.3f, PyTorch %.3f", ap, before)
            if before - ap <= self.options.max_ap_loss:
                return quantised, attempts, before
        tried = "; ".join(f"{a.ap:.3f} with {a.kept.name} in floating point" for a in attempts)
        raise WorkFailed(
            f"{path}: not written: AP falls from {before:.3f} by more than {self.options.max_ap_loss:g} whatever is"
            f" kept in floating point: {tried}"
        )

    def drift(self, model: openvino.Model, path: Path) -> list[AttentionDrift]:
        """Return the drift of attention of an int8 model, over the first images."""
        images = [NamedImage(i.path.name, read_image(i.path)) for i in self.dataset.images[:DRIFT_IMAGES]]
        return measure_attention_drift(self.reference, self._engine(model, path), self.metadata.card, images)

    def _engine(self, model: openvino.Model, path: Path) -> GraphEngine:
        from detrscope.inference.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(model, self.metadata, "int8", path)

    def _ap(self, engine: Engine) -> float:
        evaluation = self.evaluator(lambda batch: engine.predict(batch.images, batch.padding)).evaluation
        if evaluation.AP is None:
            raise UserError("data: has no boxes to measure AP on; give a dataset with annotations")
        return evaluation.AP
