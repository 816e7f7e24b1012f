"""Files of `see`: for each image a folder with figures, trace, metrics and shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from detrscope.commands.trace_provider import SUFFIX
from detrscope.console import log
from detrscope.core.edit_file import save_edits
from detrscope.core.errors import UserError, suggest_nearest
from detrscope.core.files import atomic_write
from detrscope.core.trace_data import TraceData
from detrscope.core.trace_file import trace_bytes
from detrscope.explorer.report import write_report
from detrscope.lens.measure import Measurement
from detrscope.lens.report import write_measurements_csv
from detrscope.trace_interface import Trace
from detrscope.views.canvas import ENDINGS, PixelFigure

EDITS, METRICS, REPORT, SHAPES = "edits.json", "metrics.csv", "report.html", "shapes.txt"
MAX_DEFAULT_MB = 1000.0  # of all traces: more are only written on request
LARGE_MB = 50.0  # of one trace, worth a message
TraceFormat = Literal["full", "half", "none"]


class FigureFiles:
    """Writes the results of all images of one run.

    Args:
        folder: parent of the folders of the images.
        image_format: png, jpg, webp, svg or pdf.
        trace_format: precision of written traces; None is full, unless all of them take much space.
        features: whether traces keep their feature maps.
        images: number of images whose traces are made.

    Raises:
        UserError: an unknown image format, or the folder is a file.
    """

    def __init__(
        self, folder: Path, image_format: str, trace_format: TraceFormat | None, features: bool, images: int
    ) -> None:
        ending = f".{image_format}"
        if ending not in ENDINGS:
            raise UserError(
                f"format '{image_format}': {suggest_nearest(image_format, [e[1:] for e in ENDINGS])}"
            )
        if folder.is_file():
            raise UserError(f"{folder}: is a file; expected a folder to write to")
        self._folder, self._ending, self._features = folder, ending, features
        self._trace_format, self._images = trace_format, images
        self._size_known = False

    def write_figure(self, figure: PixelFigure, stem: str, name: str) -> Path:
        """Write one figure of an image; return its path."""
        return figure.save(self._folder / stem / f"{name}{self._ending}")

    def write_tables(
        self, stem: str, trace: Trace, measurements: list[Measurement], *, from_file: bool
    ) -> dict[str, Path]:
        """Write metrics and edits, and the trace with its shapes unless it came from a file; return paths by name."""
        folder = self._folder / stem
        files = {}
        if trace.edits:
            files[EDITS] = save_edits(trace.edits, folder / EDITS)
        if measurements:
            files[METRICS] = folder / METRICS
            write_measurements_csv(folder / METRICS, measurements)
        if self._trace_format != "none" and not from_file:
            saved = trace if self._features else replace(trace, features={})
            trace_format = self._decide_format(saved)
            if trace_format != "none":
                path = saved.save(folder / f"{stem}{SUFFIX}", half=trace_format == "half")
                files[path.name] = path
            files[SHAPES] = folder / SHAPES
            with atomic_write(folder / SHAPES) as temporary:
                temporary.write_text(saved.describe() + "\n", encoding="utf-8")
        return files

    def write_report(self, stem: str, trace: Trace, before: TraceData | None) -> Path:
        """Write the page of an image; of an edited model with the image before the edits. Return its path."""
        path = self._folder / stem / REPORT
        traces = [trace] if before is None or not trace.edits else [before, trace]
        left_out = write_report(traces, path)
        if left_out:
            log.info("%s: without the records of %s, to keep it small", path, ", ".join(left_out))
        return path

    def _decide_format(self, trace: Trace) -> TraceFormat:
        """Log before the first trace what all of them will take; by default large ones are not written."""
        if self._size_known:
            return self._trace_format or "full"
        self._size_known = True
        each = trace_bytes(trace, half=self._trace_format == "half") / 1e6
        total = each * self._images
        size = f"about {total:.3g} MB"
        if self._images > 1:
            size = f"traces of {self._images} images: {size} ({each:.3g} MB each)"
        if self._trace_format is None and total > MAX_DEFAULT_MB:
            self._trace_format = "none"
            log.warning(
                "%s: traces are not written, as they are large; set the trace format to full or half to write them",
                size,
            )
        elif self._images > 1:
            log.info("%s; half precision or none takes less", size)
        elif total > LARGE_MB:
            log.info("the trace takes %s; half precision or none takes less", size)
        return self._trace_format or "full"
