"""Display mixin: how the figures of `see` show themselves in a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detrscope.core.html import html_table, html_text
from detrscope.views import VIEWS
from detrscope.views.canvas import ENDINGS
from detrscope.views.canvas.drawing import html_of_file

MAX_FIGURES = 3


class SeeDisplay:
    """The first figures, and a table of all of them."""

    def __repr__(self: Any) -> str:
        names = ", ".join(name for name in VIEWS if name in self.figures or name in self.files)
        return f"SeeResult({self.source}: {names or 'no figures'})"

    def _repr_html_(self: Any) -> str:
        written = {name: path for name, path in self.files.items() if _is_figure(name, path)}
        pictures = [
            *(figure.to_html(f"{name} of {self.source}") for name, figure in self.figures.items()),
            *(html_of_file(path, f"{name} of {self.source}") for name, path in written.items()),
        ][:MAX_FIGURES]
        rows = [(name, VIEWS[name].shows, f"figures['{name}']") for name in self.figures]
        rows += [(name, VIEWS[name].shows, path.name) for name, path in written.items()]
        rows += [(name, "", path.name) for name, path in self.files.items() if name not in written]
        folder = "".join(f", in {path.parent}" for path in [*self.files.values()][:1])
        table = html_table(("view", "shows", "where"), rows, f"{self!r}{folder}", most=len(VIEWS) + 8)
        reasons = "".join(
            f"<div><i>left out: {html_text(name)}: {html_text(reason, 200)}</i></div>"
            for name, reason in self.left_out.items()
        )
        return "".join(pictures) + table + reasons


def _is_figure(name: str, path: Path) -> bool:
    return name in VIEWS and path.suffix.lower() in ENDINGS and path.is_file()
