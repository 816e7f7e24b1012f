"""What a checkpoint knows about itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.preprocessing import Preprocessing

Scoring = Literal["softmax", "sigmoid"]
FORMAT = 1


@dataclass(frozen=True)
class ModelCard:
    """Everything needed to build, feed and read a model, besides its weights."""

    family: str
    variant: str
    config: dict[str, Any]  # of the family's config dataclass, as resolved
    classes: ClassTable
    preprocessing: Preprocessing
    scoring: Scoring  # softmax: the last logit is "no object"; sigmoid: there is none
    source: str = ""
    metrics: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain dict for the header of a checkpoint."""
        return {
            "format": FORMAT,
            "family": self.family,
            "variant": self.variant,
            "config": self.config,
            "classes": self.classes.to_json(),
            "preprocessing": self.preprocessing.to_json(),
            "scoring": self.scoring,
            "source": self.source,
            "metrics": self.metrics,
        }

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> ModelCard:
        """The inverse of `to_json`.

        Raises:
            UserError: the card was written in a format this version does not know.
        """
        if tree.get("format") != FORMAT:
            raise UserError(f"model card has format {tree.get('format')}; this version reads format {FORMAT}")
        return cls(
            family=tree["family"],
            variant=tree["variant"],
            config=tree["config"],
            classes=ClassTable.from_json(tree["classes"]),
            preprocessing=Preprocessing.from_json(tree["preprocessing"]),
            scoring=tree["scoring"],
            source=tree["source"],
            metrics=tree["metrics"],
        )
