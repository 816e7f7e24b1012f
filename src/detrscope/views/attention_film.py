"""A film of training: where the decoder looks in a few pictures, beside that moment's metrics."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from detrscope.views.canvas import Plot, line_style
from detrscope.views.film import film

WIDTH, HEIGHT = 1280, 640  # pixels
MAPS = "inferno"  # even in lightness: reads the same to the colour-blind and in print
CAPTION = 130  # letters in a line
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
) -> Plot:
    """One frame: pictures on the left, curves up to this moment on the right."""
    plot = Plot(WIDTH, HEIGHT)
    figure = plot.figure()
    left, right = np.asarray(figure.subfigures(1, 2, width_ratios=(2, 1))).flat
    columns = -(-len(moment.looks) // 2)
    grid = left.subplots(2, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, look in zip(grid.flat, moment.looks, strict=False):
        _draw_look(axes, look)
    left.suptitle(f"after {moment.step} steps", fontsize=13)
    left.supxlabel(textwrap.fill(caption, CAPTION), fontsize=8, color="0.35")
    precision, inside, loss = right.subplots(3, 1, sharex=True)
    last = moments[-1].step
    steps, values = _series(metrics, "val/AP", moment.step)
    _curve(precision, steps, [100 * v for v in values], "AP, %", last, top=100)
    before = [m for m in moments if m.step <= moment.step]
    _curve(
        inside,
        [m.step for m in before],
        [100 * m.mass_inside for m in before],
        "attention in box, %",
        last,
        top=100,
    )
    steps, values = _series(metrics, "train/loss", moment.step)
    every = [v for _, v in zip(*_series(metrics, "train/loss", last), strict=True)]
    _curve(loss, steps, values, "training loss", last, top=max(every, default=1) * 1.05)
    loss.set_xlabel("step", fontsize=9)
    return plot


def _draw_look(axes: Axes, look: Look) -> None:
    height, width = look.image.shape[:2]
    extent = (0, width, height, 0)
    axes.imshow(look.image.mean(axis=-1), cmap="gray", vmin=-60, vmax=255, extent=extent)
    strength = look.attention / max(float(look.attention.max()), 1e-9)  # [h, w] 0..1
    colours = matplotlib.colormaps[MAPS](
        0.25 + 0.75 * strength
    )  # [h, w, 4]; its darkest would read as shadow
    colours[..., 3] = 0.8 * strength**0.5
    axes.imshow(colours, interpolation="bilinear", extent=extent)
    for box in look.truth_xyxy:
        axes.add_patch(_outline(box, "white", ":"))
    for box, score in zip(look.boxes_xyxy, look.scores, strict=True):
        axes.add_patch(_outline(box, "#56B4E9", "-"))
        axes.text(box[0], box[1] - 2, f"{score:.2f}", color="#56B4E9", fontsize=9, va="bottom")
    axes.set(xlim=(0, width), ylim=(height, 0))


def _outline(box: np.ndarray, colour: str, dash: str) -> Rectangle:
    x0, y0, x1, y1 = (float(v) for v in box)
    return Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linestyle=dash, linewidth=1.8)


def _series(
    metrics: Sequence[Mapping[str, float | None]], key: str, until: int
) -> tuple[list[float], list[float]]:
    rows = [(row["step"], row.get(key)) for row in metrics]
    kept = [(s, v) for s, v in rows if s is not None and v is not None and s <= until]
    return [s for s, _ in kept], [v for _, v in kept]


def _curve(
    axes: Axes, steps: Sequence[float], values: Sequence[float], name: str, last: int, top: float
) -> None:
    axes.plot(steps, values, marker="o", markersize=3, **line_style(0))
    axes.set(xlim=(0, last), ylim=(0, top))
    axes.set_title(name + (f": {values[-1]:.3g}" if len(values) else ""), fontsize=10, loc="left")
    axes.grid(True, color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
