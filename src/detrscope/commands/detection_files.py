"""Write detections as they come: annotated images and videos, JSON, CSV and tracks."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from detrscope.core.attention_map import AttentionMap
from detrscope.core.errors import UserError, suggest_nearest
from detrscope.core.files import atomic_write, check_writable_folder
from detrscope.inference.image_detections import DetectionsCsv, ImageDetections
from detrscope.inference.media.reader import MediaFrame
from detrscope.inference.media.sources import MediaSource
from detrscope.inference.media.tracker import Track
from detrscope.views.canvas import ENDINGS, Drawing
from detrscope.views.detection_image import SMALL, SMALL_VIDEO, draw_detections
from detrscope.views.mp4 import AddFrame, Preset, write_mp4

JSON, CSV = "detections.json", "detections.csv"
PRESET: Preset = "veryfast"  # of the encoder: a third of the default's time, for files of about the same size


class DetectionFiles:
    """Writer of the output folder of `detect`; a context manager.

    Files appear when they are complete: those of an image or video at its end, the tables when the block ends. None of
    them is kept in memory. Where the block is left by an error, what is not complete is removed.

    Args:
        folder: output folder.
        image_format: png, jpg, webp, svg or pdf.
        classes: class names of the model, for their colours.
        sources: all sources, none of which may be overwritten.
        tracked: whether detections have tracks.

    Raises:
        UserError: an unknown format, or a folder that cannot be written to or holds a source that would be
            overwritten.
    """

    def __init__(
        self,
        folder: Path,
        image_format: str,
        classes: Sequence[str],
        sources: Sequence[MediaSource],
        *,
        tracked: bool = False,
    ) -> None:
        suffix = f".{image_format}"
        if suffix not in ENDINGS:
            raise UserError(
                f"format '{image_format}': {suggest_nearest(image_format, [e[1:] for e in ENDINGS])}"
            )
        check_writable_folder(folder)
        self._folder, self._suffix, self._classes, self._tracked = folder, suffix, classes, tracked
        for source in sources:
            path = self._path(source, ".mp4" if source.is_video else suffix)
            if isinstance(source.content, str | Path) and path.resolve() == Path(source.content).resolve():
                raise UserError(f"{path}: is a source and would be overwritten; choose another out folder")
        self._tables, self._video = ExitStack(), ExitStack()
        self._add_frame: AddFrame | None = None
        self._add_line: Callable[[Any], None] | None = None
        self._add_track: Callable[[Any], None] | None = None
        self._add_image: Callable[[Any], None] | None = None
        self._csv: DetectionsCsv | None = None

    def __enter__(self) -> DetectionFiles:
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self._video.__exit__(*error)
        finally:
            self._tables.__exit__(*error)

    def write(self, frame: MediaFrame, result: ImageDetections, attention: AttentionMap | None) -> None:
        """Write an image with boxes, or the next frame of a video, and its rows in the tables."""
        drawing = self._draw(frame, result, attention)
        if frame.video is None:
            drawing.save(self._path(frame.source, self._suffix))
        else:
            self._write_frame(frame, drawing, result)
        if self._add_image is None or self._csv is None:
            self._add_image = _json_list(self._open(self._tables, self._folder / JSON), self._tables)
            self._csv = DetectionsCsv(self._open(self._tables, self._folder / CSV), tracked=self._tracked)
        self._add_image(result.to_json())
        self._csv.add(result)

    def write_tracks(self, tracks: Sequence[Track]) -> None:
        """Write tracks of the current video that have ended."""
        for track in tracks:
            if self._add_track is not None:
                self._add_track(track.to_json())

    def end_source(self) -> None:
        """Complete the files of a video."""
        self._video.close()
        self._add_frame = self._add_line = self._add_track = None

    def _write_frame(self, frame: MediaFrame, drawing: Drawing, result: ImageDetections) -> None:
        assert frame.video is not None and frame.info is not None
        if self._add_frame is None or self._add_line is None:
            film = write_mp4(
                self._path(frame.source, ".mp4"),
                frame.info.rate,
                preset=PRESET,
                fragmented=frame.source.kind == "stream",
            )
            self._add_frame = self._video.enter_context(film)
            lines = self._open(self._video, self._path(frame.source, ".jsonl"))
            self._add_line = lambda tree: _write_line(lines, tree)
            if self._tracked:
                tracks = self._open(self._video, self._path(frame.source, ".tracks.json"))
                self._add_track = _json_list(tracks, self._video)
        self._add_frame(drawing.pixels(), frame.video.time)
        self._add_line(result.to_json())

    def _draw(self, frame: MediaFrame, result: ImageDetections, attention: AttentionMap | None) -> Drawing:
        return draw_detections(
            frame.image,
            result.detections,
            classes=self._classes,
            title=result.note,
            attention=attention,
            small=SMALL if frame.video is None else SMALL_VIDEO,
        )

    def _open(self, stack: ExitStack, path: Path) -> TextIO:
        temporary = stack.enter_context(atomic_write(path))
        return stack.enter_context(open(temporary, "w", newline="", encoding="utf-8"))

    def _path(self, source: MediaSource, suffix: str) -> Path:
        return self._folder / f"{source.stem}{suffix}"


def _write_line(file: TextIO, tree: Any) -> None:
    file.write(json.dumps(tree) + "\n")


def _json_list(file: TextIO, stack: ExitStack) -> Callable[[Any], None]:
    """Return a function that adds an entry to a list in JSON, one on a line; the list ends when the stack does."""
    separators = deque(["[\n", ",\n"])

    def add(tree: Any) -> None:
        file.write(separators[0] + json.dumps(tree))
        if len(separators) > 1:
            separators.popleft()

    def end() -> None:
        file.write("[]\n" if len(separators) > 1 else "\n]\n")

    stack.callback(end)
    return add
