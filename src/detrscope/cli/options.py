"""Options that several commands share, so that they are called and explained the same everywhere."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from detrscope.console import LogLevel

Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Only warnings, errors and what was measured, such as AP.")
]
Log = Annotated[LogLevel, typer.Option("--log-level", help="How much to log.")]

_MODEL = typer.Option("--model", "-m", help="Variant, checkpoint, run folder, or Hugging Face id.")
Model = Annotated[str, _MODEL]
OptionalModel = Annotated[str | None, _MODEL]  # where something else may stand in for a model
Weights = Annotated[
    str | None,
    typer.Option(help="For a variant: a file of its weights in place of the published one, or 'random'."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="Of weights and activations.")
]
PictureFormat = Literal["png", "jpg", "webp", "svg", "pdf"]
Split = Annotated[str, typer.Option(help="Split of the dataset.")]
