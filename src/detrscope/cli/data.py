"""`detrscope data`: check, show, cut, convert and draw datasets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from detrscope import console
from detrscope.cli.examples import example_text
from detrscope.cli.options import Log, Quiet
from detrscope.core.errors import UserError
from detrscope.core.files import atomic_write, check_writable_file

if TYPE_CHECKING:
    from detrscope.data.check import Report
    from detrscope.data.dataset import DetectionDataset

app = typer.Typer(
    help="Check, show, cut, convert and draw datasets.", no_args_is_help=True, rich_markup_mode=None
)
# Options that `show` does not have are settings, such as --augment.flip=1.
SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}

Source = Annotated[
    str,
    typer.Argument(
        help="coco:, coco-panoptic:, yolo:, voc:, labelme:, cvat:, labelstudio: or crowdhuman:DIR, a folder of one of"
        " these, an annotation file, or drawn-dogs:.",
        metavar="SOURCE",
    ),
]
Annotations = Annotated[
    Path | None,
    typer.Option(help="COCO .json to use in place of that of the split; SOURCE is then the image folder."),
]
FilesOption = Annotated[
    Literal["copy", "hardlink", "symlink"], typer.Option(help="Copy the images, or link to them.")
]


@app.command(epilog=example_text("data check"))
def check(
    source: Source,
    split: Annotated[
        list[str] | None, typer.Option(help="Split to read; may be given again. Default: all.")
    ] = None,
    annotations: Annotations = None,
    queries: Annotated[
        int | None, typer.Option(help="Report images with more objects than this.", min=1)
    ] = None,
    pixels: Annotated[
        bool,
        typer.Option(
            "--pixels/--no-pixels", help="Decode every image, to find truncated ones and duplicates."
        ),
    ] = True,
    limit: Annotated[
        int, typer.Option(help="Maximum number of rows per kind of problem in the table.", min=0)
    ] = 5,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON with every problem in place of the table.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON to.")] = None,
    page: Annotated[
        Path | None,
        typer.Option(help="HTML file to write: every kind of problem with pictures of the first."),
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write a repaired copy to, in COCO's layout; the original is not touched.",
        ),
    ] = None,
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Report the statistics of a dataset and every problem with file, annotation id and reason.

    Exit code 0: no errors (warnings are allowed). 1: errors. 2: the dataset could not be read.
    """
    console.setup_console(quiet, log_level)
    import json as to_text

    from detrscope.cli.data_tables import print_report
    from detrscope.commands.check_page import write_check_page
    from detrscope.data.check import check as check_dataset
    from detrscope.data.write_coco import check_new_folder

    if fix is not None and (annotations is not None or not pixels):
        raise UserError(
            "--fix repairs a dataset as a whole; it goes neither with --annotations nor --no-pixels"
        )
    if fix is not None:
        check_new_folder(fix)
    for file in (out, page):
        if file is not None:
            check_writable_file(file)
    report = check_dataset(source, split or (), annotations=annotations, queries=queries, pixels=pixels)
    text = to_text.dumps(report.to_json(), indent=1)
    if out is not None:
        with atomic_write(out) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if json:
        console.print_raw(f"{text}\n")
    elif not quiet:
        print_report(report, limit)
    if page is not None:
        write_check_page(report, page)
        console.log.info("wrote %s", page)
    if fix is not None:
        _repair(report, source, fix, split or (), quiet or json)
    raise typer.Exit(1 if report.count("error") else 0)


@app.command(context_settings=SETTINGS, epilog=example_text("data show"))
def show(
    context: typer.Context,
    source: Source,
    out: Annotated[Path, typer.Option(help="Image file to write.")],
    split: Annotated[str, typer.Option(help="Split to show.")] = "train",
    count: Annotated[int, typer.Option(help="Number of images.", min=1)] = 12,
    augment: Annotated[
        bool,
        typer.Option("--augment/--no-augment", help="Transform images as in training, or as in evaluation."),
    ] = True,
    annotations: Annotations = None,
    preset: Annotated[str | None, typer.Option(help="Training preset whose transforms are shown.")] = None,
    config: Annotated[Path | None, typer.Option(help="Training config whose transforms are shown.")] = None,
    image_id: Annotated[
        list[int] | None, typer.Option(help="Id of an image to show; may be given again.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the choice and the augmentation.", min=0)] = 0,
    columns: Annotated[int, typer.Option(help="Images in a row.", min=1)] = 4,
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Show images after their transforms, with boxes and class names.

    Training settings may follow, such as --augment.crop=0 or --data.short_side=480.
    """
    console.setup_console(quiet, log_level)
    from detrscope.commands import show as command
    from detrscope.config import parse_overrides
    from detrscope.training.config import resolve_training_config

    settings = resolve_training_config(preset, config, parse_overrides(context.args))
    tiles = command.show(
        source,
        out,
        split=split,
        count=count,
        augment=settings.augment if augment else None,
        preprocessing=settings.data.preprocessing,
        annotations=annotations,
        image_ids=image_id or (),
        seed=seed,
        columns=columns,
    )
    console.log.info("%s: %d images", out, len(tiles))


@app.command(epilog=example_text("data subset"))
def subset(
    source: Source,
    category: Annotated[list[str], typer.Option(help="Class name; may be given again.")],
    out: Annotated[Path, typer.Option(help="Folder to make, in COCO's layout.")],
    with_: Annotated[
        int | None,
        typer.Option(
            "--with", help="Number of training images with the category.", show_default="all", min=0
        ),
    ] = None,
    without: Annotated[int, typer.Option(help="Number of training images without it.", min=0)] = 0,
    val_with: Annotated[int, typer.Option(help="Number of validation images with the category.", min=0)] = 0,
    val_without: Annotated[int, typer.Option(help="Number of validation images without it.", min=0)] = 0,
    split: Annotated[str, typer.Option(help="Split to draw from.")] = "train",
    val_split: Annotated[
        str | None,
        typer.Option(help="Split to draw validation from.", show_default="the rest of --split"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the draw.", min=0)] = 0,
    all_categories: Annotated[
        bool, typer.Option("--all-categories", help="Keep the boxes of other categories in these images.")
    ] = False,
    files: FilesOption = "copy",
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Cut a dataset by category: a number of images with it and a number without."""
    console.setup_console(quiet, log_level)
    from detrscope.data.subset import Counts, cut_subset

    val = Counts(val_with, val_without) if val_with or val_without or val_split else None
    parts = cut_subset(
        source,
        category,
        out,
        Counts(with_, without),
        val,
        split=split,
        val_split=val_split,
        seed=seed,
        all_categories=all_categories,
        files=files,
    )
    _print_written(out, parts, quiet)


@app.command(epilog=example_text("data convert"))
def convert(
    source: Source,
    out: Annotated[Path, typer.Option(help="Folder to make, in COCO's layout.")],
    split: Annotated[
        list[str] | None, typer.Option(help="Split to read; may be given again. Default: all.")
    ] = None,
    files: FilesOption = "copy",
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be decoded.")
    ] = False,
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Write a dataset of any readable format in COCO's layout, all splits at once."""
    console.setup_console(quiet, log_level)
    from detrscope.data.convert import convert_dataset

    parts = convert_dataset(source, out, splits=split or (), files=files, skip_unreadable=skip_unreadable)
    _print_written(out, parts, quiet)


@app.command(epilog=example_text("data draw"))
def draw(
    count: Annotated[int, typer.Option(help="Number of images.", min=1)],
    out: Annotated[Path, typer.Option(help="Folder to make, in COCO's layout, with part masks.")],
    seed: Annotated[int, typer.Option(help="Random seed.", min=0)] = 0,
    size: Annotated[int, typer.Option(help="Width and height in pixels.")] = 160,
    start: Annotated[
        int, typer.Option(help="Index of the first image; validation begins at 10000000.", min=0)
    ] = 0,
    badge: Annotated[
        Literal["none", "class", "swapped", "removed"],
        typer.Option(
            help="Badge on every dog, whose colour alone tells two classes apart (class); the same dogs and classes"
            " with swapped colours, or with the badges removed."
        ),
    ] = "none",
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Draw scenes with cartoon dogs: images, boxes, masks, and the part of the dog under each pixel."""
    console.setup_console(quiet, log_level)
    from detrscope.data.drawn_dogs import write_drawn

    dogs = write_drawn(out, count=count, seed=seed, size=size, start=start, badge=badge)
    if not quiet:
        console.print_line(f"{out}: {count} images, {dogs} dogs")


def _repair(report: Report, source: str, out: Path, splits: list[str] | tuple[str, ...], quiet: bool) -> None:
    """Write a repaired copy, and say what was done and what was not."""
    from detrscope.data.repair import repair

    repaired = repair(source, out, splits, report=report)
    if quiet:
        return
    _print_written(out, repaired.splits, quiet)
    for what, count in repaired.done.items():
        console.print_line(f"repaired: {count} {what}")
    if not repaired.done:
        console.print_line("repaired: nothing; the copy is as the original")
    for kind, count in repaired.left.items():
        console.print_line(f"not repaired: {count} x {kind}")


def _print_written(out: Path, parts: dict[str, DetectionDataset], quiet: bool) -> None:
    for split, dataset in parts.items():
        if not quiet:
            boxes = sum(map(len, dataset.annotations.values()))
            scored = sum(map(len, dataset.unusable.values()))
            more = f" (and {scored} empty or outside, as declared)" if scored else ""
            classes = len(dataset.classes)
            console.print_line(
                f"{out}: {split}: {len(dataset)} images, {boxes} annotations, {classes} classes{more}"
            )
