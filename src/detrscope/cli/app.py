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
from detrscope.cli.examples import example_text

app = typer.Typer(
    name="detrscope",
    help="Train, evaluate, deploy and see inside detection transformers.",
    epilog=example_text("demo"),
    no_args_is_help=True,
    add_completion=True,
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


app.command("demo", epilog=example_text("demo"))(demo.demo)
app.command("detect", epilog=example_text("detect"))(detect.detect)
app.command("see", epilog=see.EPILOG)(see.see)
app.command("train", context_settings=train.CONTEXT)(train.train)
app.command("evaluate", epilog=example_text("evaluate"))(evaluate.evaluate)
app.command("compare", epilog=example_text("compare"))(compare.compare)
app.command("benchmark", epilog=example_text("benchmark"))(benchmark.benchmark)
app.command("export", epilog=example_text("export"))(export.export)
app.command("explore", epilog=example_text("explore"))(explore.explore)
app.command("publish", epilog=example_text("publish"))(publish.publish)
app.command("ablate", epilog=example_text("ablate"))(ablate.ablate)
app.command("faithfulness", epilog=example_text("faithfulness"))(faithfulness.faithfulness)
app.command("timelapse", epilog=example_text("timelapse"))(timelapse.timelapse)
app.command("plot", epilog=example_text("plot"))(train.plot)
app.command("models", epilog=example_text("models"))(models.models)
app.command("doctor", epilog=example_text("doctor"))(doctor.doctor)
app.add_typer(data.app, name="data")
app.add_typer(hub.app, name="hub")
