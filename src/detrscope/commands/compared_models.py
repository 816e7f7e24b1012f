"""Load the models of a comparison, whatever their kind, and give each a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os.path import exists
from pathlib import Path

from torch import Tensor

from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError, suggest_nearest
from detrscope.core.model_card import ModelCard
from detrscope.families import VARIANTS
from detrscope.inference.detector import Detector
from detrscope.inference.engine import Engine
from detrscope.inference.faster_rcnn import FASTER_RCNNS
from detrscope.inference.image_prediction import ImagePrediction, ImagePredictor, SetPredictor
from detrscope.inference.load_detector import LOAD_DEFAULTS, LoadOptions, open_detector
from detrscope.inference.torch_engine import TorchEngine
from detrscope.inference.torchvision_detector import TorchvisionDetector, load_torchvision

AnyDetector = Detector | TorchvisionDetector
PYTORCH: tuple[str, ...] = ("auto", "torch")
SET, REGIONS = "set prediction", "proposals and NMS"


@dataclass(frozen=True)
class ComparedModel:
    """One model of a comparison."""

    name: str
    detector: AnyDetector
    predictor: ImagePredictor

    @property
    def card(self) -> ModelCard:
        """Card of the model."""
        return self.detector.card

    @property
    def classes(self) -> ClassTable:
        """Class names and original category ids."""
        return self.detector.classes

    @property
    def kind(self) -> str:
        """Return how it arrives at its boxes."""
        return REGIONS if isinstance(self.detector, TorchvisionDetector) else SET

    @property
    def device(self) -> str:
        """Device that computes."""
        return self._runner.device

    @property
    def precision(self) -> str:
        """Precision of weights and activations."""
        return self._runner.precision

    @property
    def parameters(self) -> float | None:
        """Millions of parameters; None where the engine does not tell."""
        runner = self._runner
        if not isinstance(runner, TorchvisionDetector | TorchEngine):
            return None
        return sum(parameter.numel() for parameter in runner.model.parameters()) / 1e6

    @property
    def _runner(self) -> Engine | TorchvisionDetector:
        return self.detector if isinstance(self.detector, TorchvisionDetector) else self.detector.engine

    def predict_image(self, image: Tensor) -> ImagePrediction:
        """Return the predictions in an upright image, uint8 [3, H, W]."""
        return self.predictor.predict_image(image)


def open_models(
    models: Sequence[str | Path | AnyDetector], options: LoadOptions = LOAD_DEFAULTS
) -> list[ComparedModel]:
    """Load models and name each by its architecture, and by its file where two have the same.

    Args:
        models: names, files and folders that `load` takes; names and files of torchvision's Faster R-CNN; a name with
            weights such as `detr-r50=random`; or loaded detectors.
        options: how to load those that are given by name.

    Raises:
        UserError: fewer than two models, or one that cannot be loaded.
    """
    if len(models) < 2:
        raise UserError(f"models: expected two or more to compare, found {len(models)}")
    if options.weights is not None:
        raise UserError("weights: belong to one model; give them with its name, such as 'detr-r50=FILE'")
    detectors = [_open(model, options) for model in models]
    variants = Counter(detector.card.variant for detector in detectors)
    names: list[str] = []
    for given, detector in zip(models, detectors, strict=True):
        name = detector.card.variant
        if variants[name] > 1 and isinstance(given, str | Path):
            name = f"{name} ({Path(given).name})"
        repeated = sum(other == name or other.startswith(f"{name} #") for other in names)
        names.append(f"{name} #{repeated + 1}" if repeated else name)
    return [
        ComparedModel(name, d, d if isinstance(d, TorchvisionDetector) else SetPredictor(d))
        for name, d in zip(names, detectors, strict=True)
    ]


def _open(model: str | Path | AnyDetector, options: LoadOptions) -> AnyDetector:
    if not isinstance(model, str | Path):
        return model
    name, weights = _name_and_weights(str(model))
    torchvision = load_torchvision(name, weights=weights, device=options.device, precision=options.precision)
    if torchvision is not None:
        if options.edits:
            raise UserError(f"{model}: torchvision's Faster R-CNN has no attention; leave the edits out")
        if options.engine not in PYTORCH:
            raise UserError(
                f"{model}: torchvision's Faster R-CNN runs by PyTorch only, not by {options.engine}"
            )
        return torchvision
    known = [*VARIANTS, *FASTER_RCNNS]
    if name not in VARIANTS and not exists(name) and "/" not in name and not Path(name).suffix:
        raise UserError(f"model '{name}': not a known model; {suggest_nearest(name, known)}")
    return open_detector(name, replace(options, weights=weights))


def _name_and_weights(model: str) -> tuple[str, str | None]:
    """Split `detr-r50=random` or `detr-r50=FILE`; a file may have the sign in its own name."""
    name, sign, weights = model.partition("=")
    return (name, weights) if sign and (name in VARIANTS or name in FASTER_RCNNS) else (model, None)
