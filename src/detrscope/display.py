"""Display mixins: how maps and detections show themselves in a notebook. Drawing is imported when needed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from detrscope.core.argument_check import check_method_arguments
from detrscope.core.errors import UserError
from detrscope.core.html import html_table, html_text
from detrscope.core.types import Detections

if TYPE_CHECKING:
    from detrscope.views.canvas import Drawing

HEADINGS: tuple[str, ...] = ("class", "score", "x0", "y0", "x1", "y1", "query")


@check_method_arguments
class Displayed:
    """`show` and `save` of something that can be drawn by its own `draw`."""

    def show(self: Any) -> None:
        """Show the image: inline in a notebook, else in the system's image viewer."""
        self.draw().show()

    def save(self: Any, path: str | Path) -> Path:
        """Write the image atomically; the suffix (png, jpg, webp, svg, pdf) gives the format.

        Raises:
            UserError: a suffix that is not an image format.
        """
        saved: Path = self.draw().save(path)
        return saved


class ImageReference:
    """The image of some detections, which is read again when they are drawn; it keeps no array in memory.

    Args:
        source: file, address or bytes; or an image in memory, which can be drawn for as long as others hold it.
        read: reads the source: uint8 [3, H, W].
    """

    def __init__(self, source: Any, read: Callable[[Any], Tensor]) -> None:
        self._read = read
        self._kept = source if isinstance(source, str | Path | bytes) else None
        try:
            self._borrowed = None if self._kept is not None else weakref.ref(source)
        except TypeError:  # such as memoryview
            self._borrowed = None

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageReference, (self._kept, self._read)  # elsewhere nobody holds what is in memory

    def read(self) -> Tensor:
        """Return the image, uint8 [3, H, W].

        Raises:
            UserError: it is gone, or cannot be read any more.
        """
        source = self._borrowed() if self._borrowed is not None else self._kept
        if source is None:
            raise UserError("the image of these detections is no longer in memory; keep it in a variable")
        return self._read(source)


@check_method_arguments
@dataclass(frozen=True, repr=False)
class DisplayedDetections(Displayed, Detections):
    """`Detections` with `draw`, `show` and `save`. Made by `Detector.detect`.

    Attributes:
        image: where their image is read from, when they are drawn.
    """

    image: ImageReference | None = field(default=None, compare=False)

    @classmethod
    def of(cls, detections: Detections, image: ImageReference) -> Self:
        """Return detections with a way to their image."""
        return cls(**{f.name: getattr(detections, f.name) for f in fields(Detections)}, image=image)

    def draw(self) -> Drawing:
        """Return the image with boxes, classes and scores.

        Raises:
            UserError: the image is no longer there, or is another one.
        """
        from detrscope.views.detection_image import draw_detections

        if self.image is None:
            raise UserError("the image of these detections is not known")
        image = self.image.read()
        height, width = image.shape[-2:]
        if (height, width) != (self.height, self.width):
            raise UserError(
                f"{self.source or 'the image'}: is now {width} x {height} pixels, but detections are in "
                f"{self.width} x {self.height}"
            )
        return draw_detections(image, self)

    def _repr_html_(self) -> str:
        try:
            picture = self.draw().to_html(repr(self))
        except UserError as reason:
            picture = f"<div><i>not drawn: {html_text(reason, 200)}</i></div>"
        return picture + detections_table(self)


def detections_table(detections: Detections) -> str:
    """Return a table of detections, best first, as HTML."""
    boxes = detections.boxes_xyxy.round().int().tolist()
    columns = (detections.names, detections.scores.tolist(), boxes, detections.query_ids.tolist())
    rows: list[tuple[object, ...]] = [
        (name, score, *box, query) for name, score, box, query in zip(*columns, strict=True)
    ]
    headings = HEADINGS
    if detections.track_ids is not None:
        rows = [(*row, track) for row, track in zip(rows, detections.track_ids.tolist(), strict=True)]
        headings = (*HEADINGS, "track")
    return html_table(headings if rows else (), rows, repr(detections))
