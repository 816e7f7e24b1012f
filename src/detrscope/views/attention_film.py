"""A film of training: where the decoder looks in a few pictures, beside that moment's metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detrscope.views.canvas import PALETTE, WHITE, Chart, Scale, Sheet, strips, text_size
from detrscope.views.film import film

WIDTH, HEIGHT = 1280, 640  # pixels
PICTURES = 850  # pixels across, of the part with the pictures
GAP, ROOM = 8, 56  # pixels between pictures, and between curves
TYPE = 12  # pixels
FOUND = PALETTE[1]
HOLD = 8  # frames that the last moment stays


@dataclass(frozen=True)
class Look:
    """One picture at one moment of training."""

    image: np.ndarray  # uint8 [H, W, 3]
    attention: np.ndarray  # float [h, w] of the merged map; it sums to 1
    boxes_xyxy: np.ndarray  # [n, 4] pixels of `image`
    scores: np.ndarray  # [n]
    truth_xyxy: np.ndarray  # [m, 4]


@dataclass(frozen=True)
class Moment:
    """All pictures after a number of steps."""

    step: int
    looks: Sequence[Look]
    mass_inside: float  # mean part of attention that lies in the matched box


def attention_film(
    moments: Sequence[Moment],
    metrics: Sequence[Mapping[str, float | None]],
    path: str | Path,
    *,
    caption: str,
    rate: float = 5.0,
    on_frame: Callable[[], object] = lambda: None,
) -> Path:
    """Write the film.

    Args:
        moments: in the order of training; all with the same pictures.
        metrics: rows of a run's metrics.jsonl, for the curves.
        path: the mp4.
        caption: which model, layer, heads and normalisation the maps show.
        rate: moments a second.
        on_frame: called after each frame, for progress.
    """
    with film(path, rate) as add:
        for moment in moments:
            frame = draw_moment(moment, moments, metrics, caption=caption).pixels()
            add(frame)
            on_frame()
        for _ in range(HOLD):
            add(frame)
    return Path(path)


def draw_moment(
    moment: Moment, moments: Sequence[Moment], metrics: Sequence[Mapping[str, float | None]], *, caption: str
) -> Sheet:
    """One frame: pictures on the left, curves up to this moment on the right."""
    heading = f"after {moment.step} steps"
    height = HEIGHT - sum(strips(WIDTH, heading, caption))
    sheet = Sheet(WIDTH, height, heading, caption)
    columns = -(-len(moment.looks) // 2)
    side = min((PICTURES - GAP) / columns, height / 2) - GAP
    for i, look in enumerate(moment.looks):
        _draw_look(sheet, look, (GAP + i % columns * (side + GAP), i // columns * (side + GAP)), side)
    tall = (height - ROOM) / 3 - ROOM
    precision, inside, loss = (
        sheet.chart(PICTURES + 60, 22 + i * (tall + ROOM), WIDTH - PICTURES - 90, tall) for i in range(3)
    )
    last = moments[-1].step
    steps, values = _series(metrics, "val/AP", moment.step)
    _curve(precision, steps, [100 * v for v in values], "AP, %", last, top=100)
    before = [m for m in moments if m.step <= moment.step]
    masses = [100 * m.mass_inside for m in before]
    _curve(inside, [m.step for m in before], masses, "attention in box, %", last, top=100)
    steps, values = _series(metrics, "train/loss", moment.step)
    every = [v for _, v in zip(*_series(metrics, "train/loss", last), strict=True)]
    _curve(loss, steps, values, "training loss", last, top=max(every, default=1) * 1.05, x="step")
    return sheet


def _draw_look(sheet: Sheet, look: Look, corner: tuple[float, float], side: float) -> None:
    """A picture in the middle of a square, its map over it."""
    height, width = look.image.shape[:2]
    scale = side / max(height, width)
    across, down = width * scale, height * scale
    x, y = corner[0] + (side - across) / 2, corner[1] + (side - down) / 2
    panel = sheet.panel(x, y, across, down, (0, 0, width, height))
    panel.picture(look.image, grey=True)
    panel.heat(look.attention, Scale.amounts(look.attention))
    for box in look.truth_xyxy.tolist():
        panel.box(box, WHITE, dashed=True)
    for (x0, y0, x1, y1), score in zip(look.boxes_xyxy.tolist(), look.scores.tolist(), strict=True):
        panel.box((x0, y0, x1, y1), FOUND)
        above = max(0.0, y0 - text_size("", TYPE)[1] / scale)
        panel.label(f"{score:.2f}", (max(0.0, x0), above), size=TYPE, plate=FOUND)


def _series(
    metrics: Sequence[Mapping[str, float | None]], key: str, until: int
) -> tuple[list[float], list[float]]:
    rows = [(row["step"], row.get(key)) for row in metrics]
    kept = [(s, v) for s, v in rows if s is not None and v is not None and s <= until]
    return [s for s, _ in kept], [v for _, v in kept]


def _curve(
    chart: Chart,
    steps: Sequence[float],
    values: Sequence[float],
    name: str,
    last: int,
    top: float,
    x: str = "",
) -> None:
    chart.line(steps, values, dots=3)
    chart.limits((0, last), (0, top))
    chart.names(name + (f": {values[-1]:.3g}" if len(values) else ""), x=x, align="left")
