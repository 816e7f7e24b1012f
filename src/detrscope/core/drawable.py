"""What shows itself. Drawing is reached through the public names, as core knows none."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from detrscope.core.argument_check import checked_methods


@checked_methods
class Drawable:
    """A map of attention, which has one standard picture."""

    def picture(self) -> Any:
        """The standard picture of this, a `views.canvas.Picture`."""
        import detrscope

        return detrscope.draw_attention(cast(Any, self))

    def show(self) -> None:
        """Show it: inline in a notebook, else in the system's viewer."""
        self.picture().show()

    def save(self, path: str | Path) -> Path:
        """Write the picture, whole or not at all; the ending of the name (png, jpg, webp, svg, pdf) is the format.

        Raises:
            UserError: an ending that is not a picture format.
        """
        return self.picture().save(path)

    def _repr_png_(self) -> bytes:
        return self.picture()._repr_png_()


@checked_methods
class Viewable:
    """A trace, of which there are many figures."""

    def draw(self, view: str = "columns", choice: Any = None) -> Any:
        """A figure, as a `views.canvas.Sheet`.

        Args:
            view: a name of `detrscope.views.VIEWS`.
            choice: a `detrscope.Choice` of queries, layer, head ...; what is left out the view chooses itself.

        Raises:
            UserError: an unknown view, a choice that means nothing here, or a trace without what the view shows.
        """
        import detrscope

        return detrscope.draw(cast(Any, self), view, choice)

    def show(self, view: str = "columns", choice: Any = None) -> None:
        """Show a figure: inline in a notebook, else in the system's viewer; arguments as for `draw`."""
        self.draw(view, choice).show()
