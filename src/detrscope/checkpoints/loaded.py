"""A model out of a file, and what became of the file's parts."""

from __future__ import annotations

from dataclasses import dataclass

from detrscope.blocks.path import DetectionTransformer
from detrscope.core.model_card import ModelCard


@dataclass(frozen=True)
class LoadReport:
    """What became of a checkpoint's parts."""

    source: str
    loaded: int  # tensors
    reset: tuple[str, ...] = ()  # our names, left random
    skipped: tuple[str, ...] = ()  # the file's names, not used
    notes: tuple[str, ...] = ()  # such as a prefix that was taken off the keys

    def lines(self) -> list[str]:
        """For the log: what was loaded, reset and skipped."""
        about = "".join(f"; {note}" for note in self.notes)
        lines = [f"{self.source}: loaded {self.loaded} tensors{about}"]
        if self.reset:
            lines.append(f"reset, to be learned anew: {', '.join(self.reset)}")
        if self.skipped:
            lines.append(f"skipped: {', '.join(self.skipped)}")
        return lines


@dataclass(frozen=True)
class Loaded:
    """A model ready for use, on the CPU, in evaluation mode."""

    model: DetectionTransformer
    card: ModelCard
    report: LoadReport
