"""Deletion and insertion curves of the methods that explain a detection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detrscope.lens.faithfulness import Summary, fractions
from detrscope.views.canvas import Drawing, Plot

PANELS = (("keys", "deletion"), ("keys", "insertion"), ("pixels", "deletion"), ("pixels", "insertion"))
TITLES = {
    ("keys", "deletion"): "keys of cross-attention hidden: lower is more faithful",
    ("keys", "insertion"): "keys of cross-attention shown: higher is more faithful",
    ("pixels", "deletion"): "pixels hidden by the mean colour: lower is more faithful",
    ("pixels", "insertion"): "pixels shown on a blurred image: higher is more faithful",
}


def draw_faithfulness(
    summaries: Sequence[Summary], path: str | Path | None = None, *, title: str = "", against: str = "random"
) -> Drawing:
    """A panel for keys and pixels, deletion and insertion; a line for each method, the random order in black.

    Args:
        summaries: of all methods.
        path: where to save the picture; None to keep it in memory.
        title: a line above the panels.
        against: the method drawn in black.

    Returns:
        The picture. The legends give the areas under the curves.
    """
    plot = Plot(1300, 1000, title)
    methods = [m for m in dict.fromkeys(s.method for s in summaries) if m != against]
    for chart, kind in zip(plot.grid(2, 2), PANELS, strict=True):
        for s in summaries:
            if (s.where, s.what) != kind:
                continue
            shown = fractions(len(s.scores) - 1).tolist()
            label = f"{s.area:.3f} {s.method}"
            if s.method == against:
                chart.line(shown, s.scores, label=label, grey=0.0, width=2.4)
            else:
                chart.line(shown, s.scores, methods.index(s.method), label=label)
        what = "hidden" if kind[1] == "deletion" else "shown"
        chart.titles(TITLES[kind], x=f"part {what}", y="score, part of the undisturbed")
        chart.limits((0, 1), (0, None))
        chart.legend(title="area under the curve")
    if path is not None:
        plot.save(path)
    return plot
