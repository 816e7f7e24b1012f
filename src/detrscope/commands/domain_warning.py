"""What the model that ships knows, and a word of warning where it is shown something else.

It has learned from drawn dogs alone. In a photograph it finds "dogs" with high scores in giraffes and tables.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from detrscope.console import log
from detrscope.core.safe_text import escape_text
from detrscope.data.drawn_dogs import is_drawn
from detrscope.data.image_reader import ImageSource
from detrscope.families import FAMILIES, VARIANTS

SHIPPED = "sprint-dense-n"  # looks where no other model is named
LISTED = 3  # models that are recommended


class DomainWarning:
    """Notes the images that a model does not know; says so once.

    Args:
        model: as it was named; None is the model that ships. Only shipped weights are judged: what others know is
            theirs to say.
        weights: in place of the shipped ones.
    """

    def __init__(self, model: object, weights: object = None) -> None:
        name = SHIPPED if model is None else model
        variant = VARIANTS.get(name) if isinstance(name, str) else None
        self.name = variant.name if variant is not None and variant.shipped and weights is None else None
        self.strangers: list[str] = []
        self.seen = 0

    def note(self, image: ImageSource, name: str) -> str:
        """Return what is to be said of this image wherever results of it are shown; empty where it is known."""
        self.seen += 1
        if self.name is None or (isinstance(image, str | Path | Image.Image) and _is_drawn(image)):
            return ""
        self.strangers.append(name)
        return f"{self.name} knows drawn dogs only and this is not known to be a drawing: what it finds means nothing"

    def warn(self) -> None:
        """Say which images are no drawings, and which models know photographs."""
        if not self.strangers:
            return
        count, first = len(self.strangers), self.strangers[0]
        some = f"{first} is" if self.seen == 1 else f"{count} of {self.seen} images (such as {first}) are"
        log.warning(
            "%s not known to be drawn dogs, and %s, the model that ships, knows nothing else: what it finds there means"
            " nothing. Models that know photographs: %s; such as --model %s, whose weights are downloaded once"
            " (offline: --weights FILE); all of them: detrscope models; your own: detrscope train",
            escape_text(some),
            self.name,
            ", ".join(photograph_models()),
            photograph_models()[0],
        )


def photograph_models() -> list[str]:
    """Return models whose published weights know the 80 classes of COCO: the first of each family, and the best."""
    known = [
        [(v.published.ap, v.name) for v in family.variants if v.published and v.published.ap]
        for family in FAMILIES.values()
    ]
    firsts = [variants[0][1] for variants in known if variants]
    _, best = max(one for variants in known for one in variants)
    return list(dict.fromkeys([*firsts[: LISTED - 1], best]))


def _is_drawn(image: str | Path | Image.Image) -> bool:
    return is_drawn(image if isinstance(image, Image.Image) else Path(image).expanduser())
