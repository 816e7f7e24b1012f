"""The outcome of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detrscope.core.html import html_image, html_table
from detrscope.training.run_folder import CURVES

LARGEST = 2_000_000  # bytes of the curves that a notebook shows


@dataclass(frozen=True)
class Outcome:
    """Result of a run."""

    folder: Path
    epochs: int
    steps: int
    best_ap: float | None  # 0..1; None where nothing was evaluated
    best_epoch: int

    def _repr_html_(self) -> str:
        ap = (
            "not evaluated"
            if self.best_ap is None
            else f"{100 * self.best_ap:.1f} after epoch {self.best_epoch}"
        )
        rows = [
            ("run folder", str(self.folder)),
            ("epochs", self.epochs),
            ("steps", self.steps),
            ("best AP", ap),
        ]
        curves = self.folder / CURVES
        shown = curves.is_file() and curves.stat().st_size <= LARGEST
        picture = html_image(curves.read_bytes(), "png", "losses, AP and learning rates") if shown else ""
        return html_table((), rows) + picture
