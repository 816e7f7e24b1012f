"""`detrscope detect`: detect objects in images and videos."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detrscope import console
from detrscope.cli.options import (
    Device,
    EditFile,
    EditTexts,
    Engine,
    HideRegions,
    ImageFormat,
    Json,
    Log,
    Model,
    OptionalOutFolder,
    Precision,
    Quiet,
    Swaps,
    Tile,
    TileBatch,
    TileOverlap,
    TileWhole,
    Weights,
    tiling_of,
)
from detrscope.core.errors import UserError
from detrscope.core.files import check_writable_folder
from detrscope.inference.media.options import MEDIA_DEFAULTS, MediaOptions

if TYPE_CHECKING:
    from detrscope.cli.detection_output import Output, Printer
    from detrscope.commands.detection_stream import DetectionStream

FOLDER = Path("detections")


def detect(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Images, videos, folders, globs, URLs; camera:0; rtsp://... and http://...m3u8 streams; stream:URL "
            "for any other stream, stream:- for standard input.",
            metavar="SOURCE",
        ),
    ],
    model: Model = "sprint-dense-n",
    weights: Weights = None,
    threshold: Annotated[
        str,
        typer.Option(
            help="Minimum score, 0 to 1; or f1, precision=0.9 or recall=0.8 as measured by `evaluate "
            "--store-thresholds`, with ',per-class' for each class."
        ),
    ] = "0.7",
    show_names: Annotated[
        str, typer.Option(help="Class names to keep, such as 'person,dog'.", show_default="all")
    ] = "",
    out: OptionalOutFolder = None,
    image_format: ImageFormat = "png",
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of tables.")] = False,
    json_lines: Annotated[
        bool,
        typer.Option("--json-lines", help="Print a line of JSON for each image and frame as it comes."),
    ] = False,
    track: Annotated[
        bool,
        typer.Option(
            "--track", help="Follow objects through videos and streams, with an id each (ByteTrack)."
        ),
    ] = False,
    attention: Annotated[
        str,
        typer.Option(
            help="Class names, such as 'dog': the cross-attention of their detections is drawn over the image.",
            show_default="none",
        ),
    ] = "",
    frames: Annotated[int | None, typer.Option(help="Most frames of each video or stream.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Seconds of each video or stream to read.")] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds without data before a stream is connected to again.")
    ] = MEDIA_DEFAULTS.timeout,
    reconnects: Annotated[
        int, typer.Option(help="Most connections to a stream in a row that may fail.")
    ] = MEDIA_DEFAULTS.reconnects,
    edit: EditTexts = None,
    edits: EditFile = None,
    hide: HideRegions = None,
    swap: Swaps = None,
    tile: Tile = None,
    tile_overlap: TileOverlap = None,
    tile_whole: TileWhole = None,
    tile_batch: TileBatch = None,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Detect objects and draw them; boxes are in pixels of the upright original.

    Images and videos with boxes, detections.json and detections.csv go to the folder --out ("detections" by default).
    With --json, --json-lines or --csv nothing is written unless --out is given. Ctrl-C ends a stream and completes its
    files.
    """
    console.setup_console(quiet, log_level)
    if json + csv + json_lines > 1:
        raise UserError("give one of --json, --json-lines and --csv; all of them are written with --out")
    if out is None and not (json or csv or json_lines):
        out = FOLDER
    if out is not None:
        check_writable_folder(out)

    from detrscope.cli.detection_output import printer_of
    from detrscope.commands import detect as command
    from detrscope.commands.detection_stream import with_progress
    from detrscope.commands.edits import read_edits
    from detrscope.inference.load_detector import LoadOptions

    stream = command.detect_stream(
        model,
        [*sources],
        threshold=threshold,
        show_names=_names(show_names),
        out=out,
        image_format=image_format,
        tiling=tiling_of(tile, tile_overlap, tile_whole, tile_batch),
        load_options=LoadOptions(
            weights, device, precision, engine, read_edits(edit or (), edits, hide or (), swap or ())
        ),
        media=MediaOptions(frames, seconds, timeout, reconnects, track, tuple(_names(attention))),
    )
    kind: Output = (
        "json" if json else "json-lines" if json_lines else "csv" if csv else "quiet" if quiet else "tables"
    )
    # A bar on the terminal that the lines are printed to would be in their way.
    results = stream if json_lines and sys.stdout.isatty() else with_progress(stream)
    printer = printer_of(kind, track)
    try:
        with stream:
            for result in results:
                printer.add(result)
    except KeyboardInterrupt:
        if stream.is_live:  # its usual end
            _end(printer, stream, out)
        raise
    _end(printer, stream, out)


def _end(printer: Printer, stream: DetectionStream, out: Path | None) -> None:
    printer.end(stream)
    if stream.frames > 1:
        console.log.info("%s", stream.summary())
    if out is not None and stream.frames:
        console.log.info(f"written to {out}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
