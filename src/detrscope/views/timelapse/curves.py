"""Curves that grow with the film: what the metrics of a run say up to a moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detrscope.core.snapshot import Recording
from detrscope.views.canvas import PixelFigure, line_colour, text_size
from detrscope.views.canvas.figure import CAPTION_COLOUR, LINE_HEIGHT
from detrscope.views.canvas.text import TEXT_SIZE
from detrscope.views.part_curves import on_objects
from detrscope.views.timelapse.film_spec import Rect

Rows = Sequence[Mapping[str, float | None]]
SAME = 1e-6  # epochs; steps become epochs by a division
LOSS, TOTAL, RATES = "loss in the last layer", "train/loss", "learning rate x 1000"
TERMS = ("class", "box", "giou")  # of the loss, in the last decoder layer


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    label: str
    x: Sequence[float]  # epochs
    y: Sequence[float]
    dashed: bool = False


@dataclass(frozen=True)
class Curves:
    """Charts of a run by title, each with its lines."""

    charts: Mapping[str, Sequence[Line]]
    total: Line  # the loss over all terms and layers, said beside the terms: next to it they would be flat
    last: float  # epoch of the last moment

    @classmethod
    def of(cls, watched: Recording) -> Curves:
        """AP, losses, learning rates, and attention on objects where truth is known."""
        end = watched.moments[-1]
        epochs = end.epoch / max(end.step, 1)  # of a step

        def line(label: str, key: str, rows: Rows, times: float = 1.0, dashed: bool = False) -> Line:
            known = [(row["step"], row.get(key)) for row in rows]
            points = [(s * epochs, v * times) for s, v in known if s is not None and v is not None]
            return Line(label, [x for x, _ in points], [y for _, y in points], dashed)

        metrics = watched.metrics
        rates = [
            line(key.removeprefix("lr/").split(".")[0], key, metrics, 1000) for key in _keys(metrics, "lr/")
        ]
        charts: dict[str, Sequence[Line]] = {
            "AP, %": [line(name, f"val/{name}", metrics, 100) for name in ("AP", "AP50")],
            LOSS: [line(term, f"train/loss_{term}", metrics) for term in TERMS],
            RATES: _different(rates),
        }
        if key := on_objects(watched.attention):
            mass, area = (line(what, f"{what}/{key}", watched.attention, 100) for what in ("mass", "area"))
            title = f"attention {'in its box' if key == 'box' else 'on its object'}, %"
            charts[title] = [Line("attention", mass.x, mass.y), Line("area", area.x, area.y, dashed=True)]
        return cls(charts, line("all", TOTAL, metrics), end.epoch)

    def draw(self, sheet: PixelFigure, title: str, rect: Rect, epoch: float) -> None:
        """A chart up to an epoch; above it its title, and its lines' names and values in their colours."""
        x, y = rect[:2]
        chart = sheet.chart(*rect)
        sheet.text(title, x, y - 2 * TEXT_SIZE * LINE_HEIGHT, size=TEXT_SIZE)
        at = x
        lines = [line for line in self.charts[title] if line.x]
        for i, line in enumerate(lines):
            past = [(e, value) for e, value in zip(line.x, line.y, strict=True) if e <= epoch + SAME]
            chart.line([e for e, _ in past], [v for _, v in past], i, dashed=line.dashed, dots=2.5)
            text = f"{line.label} {past[-1][1]:.3g}" if past else f"{line.label} -"
            sheet.text(text, at, y - TEXT_SIZE * LINE_HEIGHT, size=TEXT_SIZE - 1, colour=line_colour(i))
            at += text_size(text, TEXT_SIZE - 1)[0] + 4
        if title == LOSS and (
            total := [v for e, v in zip(self.total.x, self.total.y, strict=True) if e <= epoch + SAME]
        ):
            sheet.text(
                f"{self.total.label} {total[-1]:.3g}",
                at,
                y - TEXT_SIZE * LINE_HEIGHT,
                size=TEXT_SIZE - 1,
                colour=CAPTION_COLOUR,
            )
        top = max((max(line.y) for line in lines), default=0.0)
        chart.limits((0, self.last or 1.0), (0, 100 if title.endswith("%") else 1.05 * top or 1.0))


def _keys(rows: Rows, prefix: str) -> list[str]:
    return [key for key in dict.fromkeys(k for row in rows for k in row) if key.startswith(prefix)]


def _different(lines: list[Line]) -> list[Line]:
    """Lines that lie on each other as one, with all of their names."""
    names: dict[tuple[float, ...], dict[str, Line]] = {}
    for line in lines:
        names.setdefault(tuple(line.y), {})[line.label] = line
    return [Line(", ".join(same), *_points(next(iter(same.values())))) for same in names.values()]


def _points(line: Line) -> tuple[Sequence[float], Sequence[float]]:
    return line.x, line.y
