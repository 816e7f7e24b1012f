"""`detrscope detect`: boxes in pictures and videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detrscope import console
from detrscope.cli.options import Device, Log, Model, PictureFormat, Precision, Quiet, Weights
from detrscope.core.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from detrscope.commands.detect import ImageDetections

FOLDER = Path("detections")
DETAILED = 4  # pictures; of more, one line each


def detect(
    sources: Annotated[
        list[str], typer.Argument(help="Pictures, videos, folders, globs or URLs.", metavar="SOURCE")
    ],
    model: Model = "sprint-dense-n",
    weights: Weights = None,
    threshold: Annotated[float, typer.Option(help="The least score to keep, 0 to 1.")] = 0.7,
    show_names: Annotated[
        str, typer.Option(help="Keep these classes only, such as 'person,dog'.", show_default="all")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for pictures with boxes, detections.json and detections.csv. With --json or --csv "
            "nothing is written unless this is given.",
            show_default=str(FOLDER),
        ),
    ] = None,
    picture_format: Annotated[PictureFormat, typer.Option("--format", help="Of the pictures.")] = "png",
    json: Annotated[bool, typer.Option("--json", help="Print JSON in place of the table.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV in place of the table.")] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Find objects and draw them; boxes are in pixels of the original, upright pictures."""
    console.setup(quiet, log_level)
    if json and csv:
        raise UserError("give --json or --csv, not both; both are written with --out")
    if out is None and not (json or csv):
        out = FOLDER
    if out is not None:
        console.check_folder(out)

    from detrscope.commands import detect as command

    found = command.detect(
        model,
        [*sources],
        weights=weights,
        threshold=threshold,
        show_names=[name.strip() for name in show_names.split(",") if name.strip()],
        out=out,
        picture_format=picture_format,
        device=device,
        precision=precision,
    )
    if json:
        console.print_json([one.to_json() for one in found])
    elif csv:
        import io

        lines = io.StringIO(newline="")
        command.write_csv(lines, found)
        console.print_raw(lines.getvalue())
    elif not quiet:
        console.print_table(_details(found) if len(found) <= DETAILED else _overview(found))
    if out is not None:
        console.log.info(f"written to {out}")


def _details(found: list[ImageDetections]) -> Table:
    """A line for each detection."""
    from rich.table import Table

    table = Table("source", "class", "id", "score", "box x0 y0 x1 y1, pixels")
    for one in found:
        for row in one.to_json()["detections"]:
            box = "  ".join(f"{value:.1f}" for value in row["box_xyxy"])
            table.add_row(one.source, row["name"], str(row["category_id"]), f"{row['score']:.3f}", box)
        if not len(one.detections):
            table.add_row(one.source, "nothing above the threshold", "", "", "")
    return table


def _overview(found: list[ImageDetections]) -> Table:
    """A line for each picture and each clip."""
    from collections import Counter

    from rich.table import Table

    frames: Counter[str] = Counter(one.source for one in found)
    names: dict[str, Counter[str]] = {source: Counter() for source in frames}
    for one in found:
        names[one.source].update(one.detections.names)
    table = Table("source", "frames", "detections", "classes")
    for source, counts in names.items():
        classes = ", ".join(f"{count} {name}" for name, count in counts.most_common())
        table.add_row(source, str(frames[source]), str(counts.total()), classes or "-")
    return table
