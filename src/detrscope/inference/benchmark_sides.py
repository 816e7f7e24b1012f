"""Sides of a benchmark: a model in an engine and a precision, or a reference model; what a child process can open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from detrscope.core.errors import UserError
from detrscope.core.model_card import ModelCard
from detrscope.core.postprocess import postprocess
from detrscope.core.types import Outputs
from detrscope.inference.engine import EngineName, Precision
from detrscope.inference.load_detector import load
from detrscope.inference.reference_models import REFERENCES, reference_model
from detrscope.inference.torch_engine import choose_device
from detrscope.ops.kernels.native_precision import is_native_precision, precision_slowdown


@dataclass(frozen=True)
class BenchmarkSide:
    """One line of a benchmark.

    Attributes:
        engine: engine of our model, or a name of `REFERENCES`.
        precision: precision to compute in; references compute in fp32.
        queries: number of queries, where it is not the model's own.
        model: name or path that `load` takes; also of the card that a reference model follows.
        weights: for a variant name: a weights file, or "random".
        device: device to run on.
    """

    engine: str
    precision: str
    queries: int | None
    model: str
    weights: str | None
    device: str

    @property
    def is_reference(self) -> bool:
        """Whether the model is of another library."""
        return self.engine in REFERENCES

    def open(self, card: ModelCard) -> OpenSide:
        """Load the model.

        Args:
            card: card of our model with this number of queries, for reference models.

        Raises:
            UserError: an engine, precision or model that this machine cannot run.
        """
        device = choose_device(self.device)
        if self.is_reference:
            predict = reference_model(self.engine, card, device)
            return OpenSide(
                self.engine, "fp32", card, predict, str(device), normalises=self.engine == "fasterrcnn"
            )
        if self.precision == "bf16" and device.type == "cpu" and not is_native_precision(torch.bfloat16):
            slower = precision_slowdown(torch.bfloat16)
            raise UserError(f"bf16 is emulated on this CPU ({slower:.1f} times the time of fp32)")
        detector = load(
            self.model,
            weights=self.weights,
            device=self.device,
            precision=cast(Precision, self.precision),
            engine=cast(EngineName, self.engine),
        )
        engine = detector.engine
        return OpenSide(engine.name, engine.precision, detector.card, detector.predict, engine.device)


@dataclass(frozen=True)
class OpenSide:
    """A model in memory, as the stages from an image to detections.

    Attributes:
        engine: engine that "auto" stands for, or the reference.
        precision: precision that "auto" stands for.
        card: preprocessing and scoring.
        predict_images: images [B, 3, H, W] -> predictions.
        device: device that computes.
        normalises: whether the model normalises images of 0..1 itself, as Faster R-CNN does.
    """

    engine: str
    precision: str
    card: ModelCard
    predict_images: Callable[[Tensor], Any]
    device: str
    normalises: bool = False

    def preprocess(self, image: Tensor) -> Tensor:
        """Return an image, uint8 [3, H, W], as a batch in the size of the model."""
        if self.normalises:
            return (self.card.preprocessing.resize(image).float() / 255)[None]
        return self.card.preprocessing.apply(image)[None]

    def predict(self, images: Tensor) -> Any:
        """Return the predictions of a batch, after the device has computed them."""
        found = self.predict_images(images)
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        return found

    def postprocess(self, found: Any, height: int, width: int) -> object:
        """Return the detections in an image of this size; Faster R-CNN has made them already."""
        return postprocess(found, self.card, [(height, width)]) if isinstance(found, Outputs) else found


def made_up_images(height: int, width: int, batch: int) -> Tensor:
    """Return normalised noise [batch, 3, height, width], the same each time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, height, width, generator=generator)
