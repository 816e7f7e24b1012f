"""`detrscope detect`: detect objects in images and videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detrscope import console
from detrscope.cli.options import (
    Device,
    Engine,
    ImageFormat,
    Json,
    Log,
    Model,
    OptionalOutFolder,
    Precision,
    Quiet,
    Weights,
)
from detrscope.core.errors import UserError
from detrscope.core.files import check_writable_folder

if TYPE_CHECKING:
    from rich.table import Table

    from detrscope.inference.image_detections import ImageDetections

FOLDER = Path("detections")
DETAILED = 4  # most images whose detections are listed one by one


def detect(
    sources: Annotated[
        list[str], typer.Argument(help="Images, videos, folders, globs or URLs.", metavar="SOURCE")
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
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Detect objects and draw them; boxes are in pixels of the upright original.

    Images with boxes, detections.json and detections.csv go to the folder --out ("detections" by default). With --json
    or --csv nothing is written unless --out is given.
    """
    console.setup_console(quiet, log_level)
    if json and csv:
        raise UserError("give --json or --csv, not both; both are written with --out")
    if out is None and not (json or csv):
        out = FOLDER
    if out is not None:
        check_writable_folder(out)

    from detrscope.commands import detect as command
    from detrscope.inference.detector import LoadOptions
    from detrscope.inference.image_detections import write_detections_csv

    results = command.detect(
        model,
        [*sources],
        threshold=threshold,
        show_names=[name.strip() for name in show_names.split(",") if name.strip()],
        out=out,
        image_format=image_format,
        load_options=LoadOptions(weights, device, precision, engine),
    )
    if json:
        console.print_json([image.to_json() for image in results])
    elif csv:
        import io

        lines = io.StringIO(newline="")
        write_detections_csv(lines, results)
        console.print_raw(lines.getvalue())
    elif not quiet:
        console.print_table(_details(results) if len(results) <= DETAILED else _overview(results))
    if out is not None:
        console.log.info(f"written to {out}")


def _details(results: list[ImageDetections]) -> Table:
    """Return a table with a row for each detection."""
    from rich.table import Table

    table = Table("source", "class", "id", "score", "box x0 y0 x1 y1, pixels")
    for image in results:
        for row in image.to_json()["detections"]:
            box = "  ".join(f"{value:.1f}" for value in row["box_xyxy"])
            table.add_row(image.source, row["name"], str(row["category_id"]), f"{row['score']:.3f}", box)
        if not len(image.detections):
            table.add_row(image.source, "nothing above the threshold", "", "", "")
    return table


def _overview(results: list[ImageDetections]) -> Table:
    """Return a table with a row for each image and each video."""
    from collections import Counter

    from rich.table import Table

    frames: Counter[str] = Counter(image.source for image in results)
    names: dict[str, Counter[str]] = {source: Counter() for source in frames}
    for image in results:
        names[image.source].update(image.detections.names)
    table = Table("source", "frames", "detections", "classes")
    for source, counts in names.items():
        classes = ", ".join(f"{count} {name}" for name, count in counts.most_common())
        table.add_row(source, str(frames[source]), str(counts.total()), classes or "-")
    return table
