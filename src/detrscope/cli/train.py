"""`detrscope train` and `detrscope plot`: train a detector, draw its curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detrscope import console
from detrscope.cli.examples import example_text
from detrscope.cli.options import Log, OptionalData, OutFolder, Quiet
from detrscope.config import config_preset_names
from detrscope.core.errors import UserError, suggest_nearest
from detrscope.core.files import check_writable_file, check_writable_folder

if TYPE_CHECKING:
    from detrscope.training.dry_run import DryRun

# `--a.b=c` goes through to the config; --help is our own, since it lists the settings too.
CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
OWN_OPTIONS = (
    "preset",
    "config",
    "data",
    "out",
    "from",
    "probe-images",
    "resume",
    "overwrite",
    "print-config",
    "dry-run",
    "slurm",
    "print-script",
    "quiet",
    "log-level",
)

CLASS_COUNTS = ("num_classes", "classes", "nc")  # settings of other libraries, which this one does not need


def _show_help(context: typer.Context, requested: bool) -> None:
    """Print the help, then every setting."""
    if not requested:
        return
    from rich.table import Table

    from detrscope.config import describe_config
    from detrscope.families import FAMILIES
    from detrscope.training.config import RunConfig

    typer.echo(context.get_help())
    typer.echo(
        f"\nPresets: {', '.join(config_preset_names())}\n\nSettings, given as --KEY=VALUE or in a --config file:\n"
    )
    table = Table(box=None, pad_edge=False)
    for heading in ("key", "type", "default", "description"):
        table.add_column(heading, overflow="fold")
    for setting in describe_config(RunConfig):
        table.add_row(setting.key, setting.type, setting.default, setting.help)
    for family in FAMILIES.values():
        for setting in describe_config(family.config, prefix="model.overrides."):
            table.add_row(setting.key, setting.type, setting.default, f"{family.name}: {setting.help}")
    console.print_table(table)
    heading, _, _, *lines = example_text("train").split("\n")
    typer.echo("\n".join(["", heading, "", *(f"  {line}" for line in lines)]))
    raise typer.Exit


def train(
    context: typer.Context,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Name of a shipped recipe; see the list below.", autocompletion=config_preset_names
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings that override the preset.")
    ] = None,
    data: OptionalData = None,
    out: OutFolder = Path("run"),
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Variant, checkpoint, run folder or Hugging Face id to fine-tune.",
        ),
    ] = None,
    probe_images: Annotated[
        str | None,
        typer.Option(
            help="Probe images to record during training, for `detrscope timelapse`: a folder of images, or"
            " coco:DIR, drawn-dogs:, ... with ground truth."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out as if it had not stopped.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    print_config: Annotated[
        bool,
        typer.Option("--print-config", help="Print the resolved settings as YAML and exit without training."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Try the run out and leave nothing: steps, time, memory, and whether it learns one batch by heart.",
        ),
    ] = False,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            help="Submit the run as a job of this Slurm cluster, such as 'partition=gpu nodes=2 gpus=8 time=12:00:00';"
            " repeated, they add up. Before it is preempted or out of time it saves, and is submitted again.",
            show_default="none",
        ),
    ] = None,
    print_script: Annotated[
        bool, typer.Option("--print-script", help="With --slurm: print the batch script and submit nothing.")
    ] = False,
    show_help: Annotated[
        bool,
        typer.Option(
            "--help", is_eager=True, callback=_show_help, help="Show this message and every setting."
        ),
    ] = False,
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Train a detector, fine-tune one (--from), or continue a run (--resume).

    Settings come from --preset, then --config, then --KEY=VALUE, later ones winning:
    detrscope train --preset bccd-detr --data coco:bccd --train.epochs=150
    """
    console.setup_console(quiet, log_level)
    from detrscope.config import parse_overrides, to_yaml

    overrides = parse_overrides(_settings(context.args))
    if print_script and slurm is None:
        raise UserError("--print-script prints the batch script of --slurm: add --slurm 'partition=...'")
    if slurm is not None and dry_run:
        raise UserError("--dry-run tries the run out here, --slurm submits it: give one of them")

    from detrscope.commands import train as command
    from detrscope.training.run_folder import RunFolder
    from detrscope.training.setup import resolve_run
    from detrscope.training.slurm_options import SlurmOptions

    job = None if slurm is None else SlurmOptions.parsed(slurm)
    if print_config or job is not None:
        settings = resolve_run(
            config,
            preset=preset,
            data=data,
            from_=from_,
            probe_images=probe_images,
            overrides=overrides if job is None else {**overrides, **job.train_settings(overrides)},
            resume=RunFolder(out) if resume else None,
        )
        if print_config:
            console.print_raw(to_yaml(settings))
            return
    if job is not None:
        from detrscope.commands.slurm import batch_script, submit_training

        if print_script:
            console.print_raw(batch_script(job, out))
            return
        submitted = submit_training(
            job, settings, out, resume=resume, overwrite=overwrite, quiet=quiet, level=log_level
        )
        console.log.info(
            "%d processes on %d nodes; log: %s", job.nodes * job.devices, job.nodes, submitted.log_file
        )
        console.print_line(submitted.job_id)
        return
    if dry_run:
        for option, is_given in (
            ("--resume", resume),
            ("--overwrite", overwrite),
            ("--probe-images", probe_images is not None),
        ):
            if is_given:
                raise UserError(
                    f"--dry-run tries out a new run and leaves nothing; it does not go with {option}"
                )
        _print_dry_run(
            command.train_dry_run(config, preset=preset, data=data, from_=from_, overrides=overrides)
        )
        return
    check_writable_folder(out)
    command.train(
        config,
        preset=preset,
        data=data,
        out=out,
        from_=from_,
        probe_images=probe_images,
        resume=resume,
        overwrite=overwrite,
        overrides=overrides,
    )


def _print_dry_run(result: DryRun) -> None:
    """Print what the run will be like; exit with 1 where one batch is not learned."""
    from detrscope.training.timing import format_training_time

    memory = f"{result.memory_mb} MB" if result.memory_mb is not None else "unknown"
    lines = (
        f"{result.steps} steps, {result.steps_per_epoch} an epoch; {result.seconds_per_step:.3g} s a step, about"
        f" {format_training_time(result.seconds)} in all",
        f"memory: {memory} at its peak so far, at least {result.least_memory_mb} MB",
        f"one batch of {result.images} images and {result.boxes} boxes, {result.overfit_steps} steps: loss"
        f" {result.loss[0]:.3f} to {result.loss[1]:.3f}, overlap of matched boxes {result.matched_iou[0]:.2f} to"
        f" {result.matched_iou[1]:.2f}",
    )
    for line in lines:
        console.print_line(line)
    if result.learns:
        console.print_line("the model learns it: data, boxes and loss fit together")
        return
    console.print_line(
        "the model does not learn it: look at boxes and classes (`detrscope data check`, `data show`), try a larger or"
        " smaller train.lr, and look for frozen parts (train.lr_backbone, train.lr_factors)"
    )
    raise typer.Exit(1)


def plot(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or their metrics.jsonl.", metavar="RUN")],
    out: Annotated[Path, typer.Option(help="Image file to write: .png, .svg or .pdf.")] = Path("curves.png"),
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """Draw losses, AP and learning rates over the epochs, of one run or of several in one figure."""
    console.setup_console(quiet, log_level)
    check_writable_file(out)
    from detrscope.views.training_curves import draw_curves

    draw_curves(runs, out)
    console.log.info("wrote %s", out)


def _settings(arguments: list[str]) -> list[str]:
    """Return the rest of the command line, checked to be settings.

    Raises:
        UserError: an unknown option.
    """
    from detrscope.config import describe_config
    from detrscope.training.config import RunConfig

    sections = RunConfig.__dataclass_fields__
    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        if not argument.startswith("-") or argument[1:2].isdigit():
            continue
        word = name.rpartition(".")[2].replace("-", "_")
        if word in CLASS_COUNTS:
            raise UserError(f"unknown option '--{name}'; leave it out: the classes are those of the dataset")
        if name.split(".")[0] not in sections:
            settings = [one.key for one in describe_config(RunConfig) if one.key.rpartition(".")[2] == word]
            known = [f"--{option}" for option in OWN_OPTIONS] + [f"--{key}.KEY" for key in sections]
            hint = f"did you mean '--{settings[0]}'?" if settings else suggest_nearest(f"--{name}", known)
            raise UserError(f"unknown option '{argument.partition('=')[0]}'; {hint}")
    return arguments
