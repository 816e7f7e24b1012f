"""A loaded model and the report of its loading."""

from __future__ import annotations

from dataclasses import dataclass

from detrscope.blocks.path import DetectionTransformer
from detrscope.core.model_card import ModelCard


@dataclass(frozen=True)
class LoadReport:
    """What was loaded of a checkpoint.

    Attributes:
        source: the checkpoint.
        loaded: number of tensors loaded.
        reset: the model's tensors that are left random.
        skipped: the file's entries that are not used.
        notes: remarks such as a prefix removed from the keys.
    """

    source: str
    loaded: int
    reset: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return the report as lines for the log."""
        notes = "".join(f"; {note}" for note in self.notes)
        lines = [f"{self.source}: loaded {self.loaded} tensors{notes}"]
        if self.reset:
            lines.append(f"reset to random weights: {', '.join(self.reset)}")
        if self.skipped:
            lines.append(f"skipped: {', '.join(self.skipped)}")
        return lines


@dataclass(frozen=True)
class Loaded:
    """A model ready for use, on the CPU, in evaluation mode."""

    model: DetectionTransformer
    card: ModelCard
    report: LoadReport
