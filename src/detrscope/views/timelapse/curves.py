"""Curves that grow with the film: the metrics of a run up to a snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from detrscope.core.snapshot import Recording
from detrscope.views.canvas import PixelFigure, line_colour, text_size
from detrscope.views.canvas.figure import CAPTION_COLOUR, LINE_HEIGHT
from detrscope.views.canvas.text import TEXT_SIZE
from detrscope.views.part_curves import Rows, whole_object_curve
from detrscope.views.viewport import Rect

TOLERANCE = 1e-6  # epochs; steps become epochs by a division
LOSS, TOTAL, RATES = "loss in the last layer", "train/loss", "learning rate x 1000"
TERMS = ("class", "box", "giou")  # of the loss, in the last decoder layer


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    label: str
    points: Sequence[tuple[float, float]]  # epoch, value
    dashed: bool = False

    def until(self, epoch: float) -> list[tuple[float, float]]:
        """Return the points up to an epoch."""
        return [(x, y) for x, y in self.points if x <= epoch + TOLERANCE]


@dataclass(frozen=True)
class Curves:
    """Charts of a run by title, each with its lines."""

    charts: Mapping[str, Sequence[Line]]
    total: Line  # total loss, written beside its terms: as a line it would make them flat
    last: float  # epoch of the last snapshot

    @classmethod
    def of(cls, recording: Recording) -> Curves:
        """Return AP, losses, learning rates, and attention on objects where the probe images have ground truth."""
        end, metrics = recording.steps[-1], recording.metrics
        epochs_per_step = end.epoch / max(end.step, 1)

        def line(label: str, key: str, rows: Rows, factor: float = 1.0, dashed: bool = False) -> Line:
            known = [(row["step"], row.get(key)) for row in rows]
            points = [(s * epochs_per_step, v * factor) for s, v in known if s is not None and v is not None]
            return Line(label, points, dashed)

        rates = [key for key in dict.fromkeys(k for row in metrics for k in row) if key.startswith("lr/")]
        charts: dict[str, Sequence[Line]] = {
            "AP, %": [line(name, f"val/{name}", metrics, 100) for name in ("AP", "AP50")],
            LOSS: [line(term, f"train/loss_{term}", metrics) for term in TERMS],
            RATES: _merged(
                [line(key.removeprefix("lr/").split(".")[0], key, metrics, 1000) for key in rates]
            ),
        }
        if key := whole_object_curve(recording.attention):
            charts[f"attention {'in its box' if key == 'box' else 'on its object'}, %"] = [
                line("attention", f"mass/{key}", recording.attention, 100),
                line("area", f"area/{key}", recording.attention, 100, dashed=True),
            ]
        return cls(charts, line("all", TOTAL, metrics), end.epoch)

    def draw(self, figure: PixelFigure, title: str, rect: Rect, epoch: float) -> None:
        """Draw a chart up to an epoch, with its title above it and the names and values of its lines."""
        x, y = rect[:2]
        chart = figure.chart(*rect)
        figure.text(title, x, y - 2 * TEXT_SIZE * LINE_HEIGHT, size=TEXT_SIZE)
        label_y = y - TEXT_SIZE * LINE_HEIGHT
        lines = [line for line in self.charts[title] if line.points]
        for i, line in enumerate(lines):
            points = line.until(epoch)
            chart.line([e for e, _ in points], [v for _, v in points], i, dashed=line.dashed, dots=2.5)
            text = f"{line.label} {points[-1][1]:.3g}" if points else f"{line.label} -"
            figure.text(text, x, label_y, size=TEXT_SIZE - 1, colour=line_colour(i))
            x += text_size(text, TEXT_SIZE - 1)[0] + 4
        if title == LOSS and (points := self.total.until(epoch)):
            text = f"{self.total.label} {points[-1][1]:.3g}"
            figure.text(text, x, label_y, size=TEXT_SIZE - 1, colour=CAPTION_COLOUR)
        top = max((value for line in lines for _, value in line.points), default=0.0)
        high = 1.05 * top or 1.0
        chart.limits((0, self.last or 1.0), (0, min(100.0, high) if title.endswith("%") else high))


def _merged(lines: Sequence[Line]) -> list[Line]:
    """Return the lines with those of equal values merged into one that has all of their names."""
    groups: dict[tuple[float, ...], list[Line]] = {}
    for line in lines:
        groups.setdefault(tuple(value for _, value in line.points), []).append(line)
    return [
        replace(group[0], label=", ".join(dict.fromkeys(line.label for line in group)))
        for group in groups.values()
    ]
