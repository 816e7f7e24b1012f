"""What `detrscope detect` prints, result by result: tables, JSON, JSON lines, CSV."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import TYPE_CHECKING, Literal, Protocol

from detrscope import console
from detrscope.inference.image_detections import DetectionsCsv, ImageDetections

if TYPE_CHECKING:
    from rich.table import Table

    from detrscope.commands.detection_stream import DetectionStream

DETAILED = 4  # most images whose detections are listed one by one
MOST_TRACKS = 40  # most rows of the table of tracks

Output = Literal["tables", "quiet", "json", "json-lines", "csv"]


class Printer(Protocol):
    """Printer of the results of a command."""

    def add(self, result: ImageDetections) -> None:
        """Print, or count, the detections in one image or frame."""
        ...

    def end(self, stream: DetectionStream) -> None:
        """Print what comes at the end."""
        ...


def printer_of(output: Output, tracked: bool) -> Printer:
    """Return the printer for a kind of output."""
    if output == "json":
        return JsonPrinter()
    if output == "json-lines":
        return JsonLinesPrinter()
    return CsvPrinter(tracked) if output == "csv" else TablePrinter(tracked, quiet=output == "quiet")


class JsonPrinter:
    """Printer of one JSON list with an entry on each line."""

    def __init__(self) -> None:
        self._before = "[\n"

    def add(self, result: ImageDetections) -> None:
        """Print an entry."""
        console.print_raw(self._before + json.dumps(result.to_json()))
        self._before = ",\n"

    def end(self, stream: DetectionStream) -> None:
        """Close the list."""
        console.print_raw("[]\n" if not stream.frames else "\n]\n")


class JsonLinesPrinter:
    """Printer of an object in JSON on each line, flushed at once."""

    def add(self, result: ImageDetections) -> None:
        """Print a line."""
        console.print_raw(json.dumps(result.to_json()) + "\n")

    def end(self, stream: DetectionStream) -> None:
        """Print nothing more."""


class CsvPrinter:
    """Printer of CSV with a header."""

    def __init__(self, tracked: bool) -> None:
        self._text = io.StringIO(newline="")
        self._csv = DetectionsCsv(self._text, tracked=tracked)

    def add(self, result: ImageDetections) -> None:
        """Print the rows of an image or frame."""
        self._csv.add(result)
        console.print_raw(self._text.getvalue())
        self._text.seek(0)
        self._text.truncate()

    def end(self, stream: DetectionStream) -> None:
        """Print the header where there was no image."""
        console.print_raw(self._text.getvalue())


class TablePrinter:
    """Printer of tables: of detections for a few images, else of counts for each source; and of tracks.

    Args:
        tracked: whether there is a table of tracks.
        quiet: print nothing.
    """

    def __init__(self, tracked: bool, *, quiet: bool) -> None:
        self._tracked, self._quiet = tracked, quiet
        self._first: list[ImageDetections] = []
        self._frames: Counter[str] = Counter()
        self._names: dict[str, Counter[str]] = {}

    def add(self, result: ImageDetections) -> None:
        """Count an image or frame; the first ones are kept."""
        if len(self._first) <= DETAILED:
            self._first.append(result)
        self._frames[result.source] += 1
        self._names.setdefault(result.source, Counter()).update(result.detections.names)

    def end(self, stream: DetectionStream) -> None:
        """Print the tables."""
        if self._quiet:
            return
        console.print_table(self._details() if len(self._first) <= DETAILED else self._overview())
        if self._tracked:
            console.print_table(_tracks(stream))

    def _details(self) -> Table:
        """Return a table with a row for each detection."""
        from rich.table import Table

        table = Table("source", "class", "id", "score", "box x0 y0 x1 y1, pixels")
        for image in self._first:
            for row in image.to_json()["detections"]:
                box = "  ".join(f"{value:.1f}" for value in row["box_xyxy"])
                table.add_row(image.source, row["name"], str(row["category_id"]), f"{row['score']:.3f}", box)
            if not len(image.detections):
                table.add_row(image.source, "nothing above the threshold", "", "", "")
        return table

    def _overview(self) -> Table:
        """Return a table with a row for each image and each video."""
        from rich.table import Table

        table = Table("source", "frames", "detections", "classes")
        for source, counts in self._names.items():
            classes = ", ".join(f"{count} {name}" for name, count in counts.most_common())
            table.add_row(source, str(self._frames[source]), str(counts.total()), classes or "-")
        return table


def _tracks(stream: DetectionStream) -> Table:
    """Return a table with a row for each of the last tracks."""
    from rich.table import Table

    shown = list(stream.tracks)[-MOST_TRACKS:]
    left = stream.track_count - len(shown)
    title = f"the last {len(shown)} of {stream.track_count} tracks" if left else "tracks"
    table = Table("source", "track", "class", "first frame", "last frame", "frames", title=title)
    for ended in shown:
        track = ended.track
        numbers = (str(track.first), str(track.last), str(track.frames))
        table.add_row(ended.source, str(track.id), track.name, *numbers)
    return table
