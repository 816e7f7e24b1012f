"""Deletion and insertion curves of the methods that explain a detection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detrscope.lens.faithfulness import Summary, fractions
from detrscope.views.canvas import Picture, Plot, line_style

PANELS = (("keys", "deletion"), ("keys", "insertion"), ("pixels", "deletion"), ("pixels", "insertion"))
TITLES = {
    ("keys", "deletion"): "keys of cross-attention hidden: lower is more faithful",
    ("keys", "insertion"): "keys of cross-attention shown: higher is more faithful",
    ("pixels", "deletion"): "pixels hidden by the mean colour: lower is more faithful",
    ("pixels", "insertion"): "pixels shown on a blurred image: higher is more faithful",
}


def draw_faithfulness(
    summaries: Sequence[Summary], path: str | Path | None = None, *, title: str = "", against: str = "random"
) -> Picture:
    """A panel for keys and pixels, deletion and insertion; a line for each method, the random order in black.

    Args:
        summaries: of all methods.
        path: where to save the picture; None to keep it in memory.
        title: a line above the panels.
        against: the method drawn in black.

    Returns:
        The picture. The legends give the areas under the curves.
    """
    plot = Plot(1300, 1000)
    methods = [m for m in dict.fromkeys(s.method for s in summaries) if m != against]
    for ax, kind in zip(plot.grid(2, 2), PANELS, strict=True):
        for s in summaries:
            if (s.where, s.what) != kind:
                continue
            black = {"color": "black", "linewidth": 2.4}
            style = black if s.method == against else line_style(methods.index(s.method))
            hidden = fractions(len(s.scores) - 1).tolist()
            ax.plot(hidden, s.scores, label=f"{s.area:.3f} {s.method}", **style)
        ax.set_title(TITLES[kind], fontsize=10)
        ax.set(
            xlabel=f"part {'hidden' if kind[1] == 'deletion' else 'shown'}",
            ylabel="score, part of the undisturbed",
        )
        ax.set(xlim=(0, 1), ylim=(0, None))
        legend = ax.legend(fontsize=7, framealpha=0.85, edgecolor="none", title="area under the curve")
        legend.get_title().set_fontsize(7)
    if title:
        plot.figure().suptitle(title, fontsize=11)
    if path is not None:
        plot.save(path)
    return plot
