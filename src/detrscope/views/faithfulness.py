"""Deletion and insertion curves of methods that explain detections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detrscope.lens.deletion_curves import Summary, curve_fractions
from detrscope.views.canvas import Drawing, Plot

TITLES = {
    ("keys", "deletion"): "keys of cross-attention hidden: lower is more faithful",
    ("keys", "insertion"): "keys of cross-attention shown: higher is more faithful",
    ("pixels", "deletion"): "pixels hidden by the mean colour: lower is more faithful",
    ("pixels", "insertion"): "pixels shown on a blurred image: higher is more faithful",
}


def draw_faithfulness(
    summaries: Sequence[Summary], path: str | Path | None = None, *, title: str = "", against: str = "random"
) -> Drawing:
    """Draw panels for keys and pixels, deletion and insertion, with a line for each method and the baseline in black.

    Args:
        summaries: summaries of all methods.
        path: file to write; None to keep the drawing in memory.
        title: line of text above the panels.
        against: name of the baseline.

    Returns:
        The drawing. The legends give the areas under the curves.
    """
    plot = Plot(1300, 1000, title)
    methods = [m for m in dict.fromkeys(s.method for s in summaries) if m != against]
    for chart, (kind, panel_title) in zip(plot.grid(2, 2), TITLES.items(), strict=True):
        for s in summaries:
            if (s.where, s.what) != kind:
                continue
            x = curve_fractions(len(s.scores) - 1).tolist()
            label = f"{s.area:.3f} {s.method}"
            if s.method == against:
                chart.line(x, s.scores, label=label, grey=0.0, width=2.4)
            else:
                chart.line(x, s.scores, methods.index(s.method), label=label)
        what = "hidden" if kind[1] == "deletion" else "shown"
        chart.titles(panel_title, x=f"share {what}", y="score relative to the undisturbed")
        chart.limits((0, 1), (0, None))
        chart.legend(title="area under the curve")
    if path is not None:
        plot.save(path)
    return plot
