"""Write detections: annotated images and videos, JSON and CSV."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from detrscope.core.errors import UserError, suggest_nearest
from detrscope.core.files import atomic_write, check_writable_folder
from detrscope.inference.image_detections import ImageDetections, write_detections_csv
from detrscope.inference.media.sources import MediaSource
from detrscope.inference.media.video import VideoFrame
from detrscope.views.canvas import ENDINGS, Drawing
from detrscope.views.detection_image import draw_detections
from detrscope.views.mp4 import write_mp4

JSON, CSV = "detections.json", "detections.csv"


class DetectionWriter:
    """Writer of the output folder of `detect`.

    Args:
        folder: output folder.
        image_format: png, jpg, webp, svg or pdf.
        classes: class names of the model, for their colours.
        sources: all images and videos, none of which may be overwritten.

    Raises:
        UserError: an unknown format, or a folder that cannot be written to or holds a source that would be
            overwritten.
    """

    def __init__(
        self, folder: Path, image_format: str, classes: Sequence[str], sources: Sequence[MediaSource]
    ) -> None:
        suffix = f".{image_format}"
        if suffix not in ENDINGS:
            raise UserError(
                f"format '{image_format}': {suggest_nearest(image_format, [e[1:] for e in ENDINGS])}"
            )
        check_writable_folder(folder)
        self._folder, self._suffix, self._classes = folder, suffix, classes
        for source in sources:
            path = self._path(source, ".mp4" if source.is_video else suffix)
            if isinstance(source.content, str | Path) and path.resolve() == Path(source.content).resolve():
                raise UserError(f"{path}: is a source and would be overwritten; choose another out folder")

    def write_image(self, source: MediaSource, image: Tensor, detections: ImageDetections) -> None:
        """Write an image with boxes."""
        self._draw(image, detections).save(self._path(source, self._suffix))

    @contextmanager
    def open_video(
        self, source: MediaSource, rate: Fraction
    ) -> Iterator[Callable[[VideoFrame, ImageDetections], None]]:
        """Yield a function that adds a frame to an mp4 with boxes and a line to a JSON-lines file."""
        with (
            write_mp4(self._path(source, ".mp4"), rate) as add_frame,
            atomic_write(self._path(source, ".jsonl")) as temporary,
            open(temporary, "w", encoding="utf-8") as lines,
        ):

            def add(frame: VideoFrame, detections: ImageDetections) -> None:
                add_frame(self._draw(frame.image, detections).pixels(), frame.time)
                lines.write(json.dumps(detections.to_json()) + "\n")

            yield add

    def write_tables(self, detections: Sequence[ImageDetections]) -> None:
        """Write the detections in all images and frames to one JSON and one CSV file."""
        with atomic_write(self._folder / JSON) as path:
            tree = [image.to_json() for image in detections]
            path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
        with atomic_write(self._folder / CSV) as path, open(path, "w", newline="", encoding="utf-8") as file:
            write_detections_csv(file, detections)

    def _draw(self, image: Tensor, detections: ImageDetections) -> Drawing:
        return draw_detections(image, detections.detections, classes=self._classes, title=detections.note)

    def _path(self, source: MediaSource, suffix: str) -> Path:
        return self._folder / f"{source.stem}{suffix}"
