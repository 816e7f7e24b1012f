"""Options that several commands share, so that they have one name and one help text everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from detrscope.console import LogLevel

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show only warnings, errors and metrics.")]
Log = Annotated[LogLevel, typer.Option("--log-level", help="Least severe log messages to show.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]

_MODEL = typer.Option("--model", "-m", help="Variant, checkpoint, run folder, or Hugging Face id.")
Model = Annotated[str, _MODEL]
OptionalModel = Annotated[str | None, _MODEL]  # where another source may replace a model
Weights = Annotated[
    str | None,
    typer.Option(help="For a variant: a weights file instead of the published one, or 'random'."),
]
Device = Annotated[str, typer.Option(help="Device to run on: auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="Precision of weights and activations.")
]

Engine = Annotated[
    Literal["auto", "torch"], typer.Option(help="Engine that runs the model; auto is the one of the file.")
]

_DATA = typer.Option(
    help="Dataset: coco:DIR, yolo:DIR, voc:DIR, drawn-dogs:, a folder, or an annotation .json."
)
Data = Annotated[str, _DATA]
OptionalData = Annotated[str | None, _DATA]
Split = Annotated[str, typer.Option(help="Split of the dataset.")]

_OUT = typer.Option(help="Output folder.")
OutFolder = Annotated[Path, _OUT]
OptionalOutFolder = Annotated[Path | None, _OUT]
ImageFormat = Annotated[
    Literal["png", "jpg", "webp", "svg", "pdf"], typer.Option("--format", help="File format of the images.")
]
