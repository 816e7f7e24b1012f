"""`detrscope hub`: share models on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detrscope import console
from detrscope.cli.examples import example_text
from detrscope.cli.options import Log, Quiet

app = typer.Typer(help="Share models on the Hugging Face hub.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def hub() -> None:
    """Share models on the Hugging Face hub."""


@app.command(epilog=example_text("hub push"))
def push(
    model: Annotated[
        str, typer.Argument(help="Run folder, checkpoint, variant, or Hugging Face folder.", metavar="MODEL")
    ],
    repository: Annotated[
        str,
        typer.Argument(
            help="Name on the hub, such as alice/cells; made if it does not exist.", metavar="OWNER/NAME"
        ),
    ],
    license: Annotated[
        str,
        typer.Option(
            help="Licence of the weights, as the hub names it: apache-2.0, mit, cc-by-4.0, other ...",
            metavar="NAME",
        ),
    ],
    image: Annotated[
        list[str] | None,
        typer.Option(
            help="Image that the card shows with its detections and their attention; may be repeated. No other image is"
            " uploaded.",
            show_default="none",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Name of the dataset that the metrics are of.", show_default="from the run's settings"
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private, where it is made.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the files to a folder to look at; upload nothing.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="New folder to keep the files in.", show_default="none; with --dry-run hub-NAME"),
    ] = None,
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Upload a model with a card: weights, classes, metrics, licence, pictures, and how to load it.

    Afterwards `--model OWNER/NAME` loads it anywhere. Sign in first with `hf auth login`, or set HF_TOKEN.
    """
    console.setup_console(quiet, log_level)

    from detrscope.commands.hub import push_to_hub

    result = push_to_hub(
        model,
        repository,
        license=license,
        images=image or (),
        dataset=dataset,
        private=private,
        dry_run=dry_run,
        out=out,
    )
    if result.folder is not None:
        console.log.info("written to %s: %s", result.folder, ", ".join(result.files))
    if result.url is not None:
        console.print_line(result.url)
