"""The typer application with all commands."""

from __future__ import annotations

from typing import Annotated

import typer

from detrscope.cli import (
    ablate,
    benchmark,
    compare,
    data,
    demo,
    detect,
    doctor,
    evaluate,
    explore,
    export,
    faithfulness,
    hub,
    models,
    publish,
    see,
    timelapse,
    train,
)

app = typer.Typer(
    name="detrscope",
    help="Train, evaluate, deploy and see inside detection transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(requested: bool) -> None:
    if requested:
        from detrscope._version import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train, evaluate, deploy and see inside detection transformers."""


app.command("demo")(demo.demo)
app.command("detect")(detect.detect)
app.command("see", epilog=see.EPILOG)(see.see)
app.command("train", context_settings=train.CONTEXT)(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("benchmark")(benchmark.benchmark)
app.command("export")(export.export)
app.command("explore")(explore.explore)
app.command("publish")(publish.publish)
app.command("ablate")(ablate.ablate)
app.command("faithfulness")(faithfulness.faithfulness)
app.command("timelapse")(timelapse.timelapse)
app.command("plot")(train.plot)
app.command("models")(models.models)
app.command("doctor")(doctor.doctor)
app.add_typer(data.app, name="data")
app.add_typer(hub.app, name="hub")
