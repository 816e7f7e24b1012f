"""Warn where the shipped model, trained on drawn dogs only, runs on other images.

In photographs it detects "dogs" with high scores in giraffes and tables.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from detrscope.console import log
from detrscope.core.model_card import SHIPPED_SOURCE
from detrscope.core.safe_text import escape_text
from detrscope.data.drawn_dogs import is_drawn_dogs
from detrscope.data.image_reader import ImageSource
from detrscope.families import FAMILIES
from detrscope.inference.detector import Detector

SHIPPED = "sprint-dense-n"  # the default model
LISTED = 3  # recommended models


class DomainWarning:
    """Warning about images outside the training domain of the shipped model.

    Args:
        detector: the shipped model, or a file exported from it. Other models, and None, give no warnings.
    """

    def __init__(self, detector: Detector | None) -> None:
        shipped = detector is not None and detector.card.source == SHIPPED_SOURCE
        self.name = detector.card.variant if detector is not None and shipped else None
        self.foreign: list[str] = []
        self.count = 0

    def note(self, image: ImageSource, name: str) -> str:
        """Count an image; return the warning to show with its results, empty where it is a drawing."""
        self.count += 1
        if self.name is None or (isinstance(image, str | Path | Image.Image) and _is_drawn(image)):
            return ""
        self.foreign.append(name)
        return f"{self.name} is trained on drawn dogs only; this is no known drawing: its detections are unreliable"

    def warn(self) -> None:
        """Log which images are not drawings, and which models are trained on photographs."""
        if not self.foreign:
            return
        count, first = len(self.foreign), self.foreign[0]
        images = f"{first} is" if self.count == 1 else f"{count} of {self.count} images (such as {first}) are"
        log.warning(
            "%s not known to be drawn dogs, and %s, the shipped model, is trained on these only: its detections are"
            " unreliable. Models for photographs: %s; for example model %s, whose weights are downloaded once"
            " (offline: weights from a file); all of them: detrscope models; your own: detrscope train",
            escape_text(images),
            self.name,
            ", ".join(suggest_photograph_models()),
            suggest_photograph_models()[0],
        )


def suggest_photograph_models() -> list[str]:
    """Return models with published COCO weights: the first of each family, and the best."""
    known = [
        [(v.published.ap, v.name) for v in family.variants if v.published and v.published.ap]
        for family in FAMILIES.values()
    ]
    firsts = [variants[0][1] for variants in known if variants]
    _, best = max(variant for variants in known for variant in variants)
    return list(dict.fromkeys([*firsts[: LISTED - 1], best]))


def _is_drawn(image: str | Path | Image.Image) -> bool:
    return is_drawn_dogs(image if isinstance(image, Image.Image) else Path(image).expanduser())
