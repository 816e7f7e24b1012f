"""Train a detector: assemble settings, devices, data and model for the training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric
from torch import nn

from detrscope.checkpoints.native import read_checkpoint_card
from detrscope.commands.processes import join_processes, one_line_if_another_ends
from detrscope.commands.tracking import check_loggers, tracked
from detrscope.console import log, progress
from detrscope.core.errors import UserError, WorkFailed
from detrscope.core.files import atomic_write
from detrscope.core.model_card import ModelCard
from detrscope.data.dataset import DetectionDataset
from detrscope.evaluation.evaluator import Evaluator
from detrscope.evaluation.predict import ModulePredictor
from detrscope.evaluation.report import write_class_csv
from detrscope.ops.kernels.native_precision import DTYPES
from detrscope.ops.kernels.threads import use_kernel_threads
from detrscope.recording.recorder import make_recorder
from detrscope.training.config import RunConfig
from detrscope.training.dry_run import OVERFIT_STEPS, DryRun, dry_run
from detrscope.training.launch import (
    check_launch_precision,
    make_fabric,
    resolve_precision,
    resolve_processes,
)
from detrscope.training.loop import Hooks, Validation, train_model
from detrscope.training.memory_estimate import check_memory
from detrscope.training.outcome import Outcome
from detrscope.training.run_folder import CURVES, LAST, LOG, PER_CLASS, RunFolder, log_to_run_folder
from detrscope.training.setup import (
    make_training_loader,
    make_training_model,
    open_training_data,
    resolve_run,
    warn_of_crowded_images,
)
from detrscope.training.train_state import seed_all
from detrscope.training.train_step import StepFailed, check_training_support
from detrscope.views.training_curves import draw_curves

JOBS = "slurm"  # folder in the run folder, for the jobs of a cluster
BEGUN = "begun.txt"  # in it: the marks of the runs that were begun here, the last one's at the end


def train(
    config: RunConfig | str | Path | None = None,
    *,
    preset: str | None = None,
    data: str | Path | None = None,
    out: str | Path = "run",
    from_: str | Path | None = None,
    probe_images: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> Outcome:
    """Train a detector and leave a run folder.

    Settings come from `preset`, then `config`, then the other arguments, then `overrides`, later ones winning.

    Args:
        config: settings, or a YAML file of them.
        preset: a shipped recipe, such as "detr-r50-coco".
        data: the dataset: coco:DIR, yolo:DIR, voc:DIR or another format, a folder, or an annotation file.
        out: the run folder.
        from_: fine-tune this model: a variant name, checkpoint, run folder, or Hugging Face id. Its weights
            only; the heads are reset where the classes differ.
        probe_images: probe images to record during training, for `timelapse`: a folder of images, or a dataset such
            as coco:DIR. All of them, unless `overrides` has `train.recording.count`.
        resume: continue the run in `out` as if it had not been interrupted.
        overwrite: replace a run that is in `out`.
        overrides: single settings, such as `{"train.epochs": 10}`.

    Returns:
        The run folder, the epochs and steps taken, and the best AP.

    Raises:
        UserError: settings, data or model are wrong, or the run folder is in use.
        WorkFailed: a loss or gradient is NaN or infinite.
        KeyboardInterrupt: after Ctrl-C, with the checkpoint written.
    """
    folder = RunFolder(out)
    if resume and from_ is not None:
        raise UserError(
            "resume=True continues a run and from_=MODEL starts a new one from its weights: give one of them"
        )
    if resume and overwrite:
        raise UserError("resume=True continues the run that overwrite=True would remove: give one of them")
    if not resume:
        folder.refuse_if_in_use(overwrite)
    config = resolve_run(
        config,
        preset=preset,
        data=data,
        from_=from_,
        probe_images=probe_images,
        overrides=overrides,
        resume=folder if resume else None,
    )
    return train_in_folder(config, folder, resume)


def train_in_folder(config: RunConfig, folder: RunFolder, resume: bool, job: str | None = None) -> Outcome:
    """Train with settings that are resolved, in a folder that is free, or holds the run to resume or replace.

    Args:
        config: the settings.
        folder: the run folder.
        resume: continue the run in it.
        job: mark of the job that trains, by which it knows its own run when it starts again.

    Raises:
        UserError, WorkFailed, KeyboardInterrupt: as `train`.
    """
    if not config.data.source:
        raise UserError("no dataset: expected one, such as data=coco:path/to/coco")
    check_loggers(config.train.loggers)
    config = resolve_precision(resolve_processes(config))
    use_kernel_threads(config.train.threads)
    fabric = make_fabric(config.train)
    join_processes(fabric, config.train.timeout)
    try:
        with (
            one_line_if_another_ends(fabric, "continue with resume=True"),
            folder.locked() if fabric.is_global_zero else nullcontext(),
        ):
            return _train(config, folder, fabric, resume, job)
    except KeyboardInterrupt:
        if fabric.is_global_zero and folder.has_state:
            log.warning("interrupted; continue with out=%s and resume=True", folder.path)
        raise


def train_dry_run(
    config: RunConfig | str | Path | None = None,
    *,
    preset: str | None = None,
    data: str | Path | None = None,
    from_: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> DryRun:
    """Try out a training run without leaving anything: its time and memory, and whether it learns one batch by heart.

    Args:
        config: settings, or a YAML file of them.
        preset: a shipped recipe.
        data: the dataset.
        from_: the model to fine-tune.
        overrides: single settings.

    Raises:
        UserError: settings, data or model are wrong.
        WorkFailed: a loss or gradient is NaN or infinite.
    """
    config = resolve_run(config, preset=preset, data=data, from_=from_, overrides=overrides)
    if not config.data.source:
        raise UserError("no dataset: expected one, such as data=coco:path/to/coco")
    config = resolve_precision(resolve_processes(config))
    if config.train.devices != 1 or config.train.nodes != 1:
        raise UserError(
            "a dry run takes one process: set train.devices=1 and train.nodes=1, and data.batch_size to the part of one"
        )
    use_kernel_threads(config.train.threads)
    fabric = make_fabric(config.train)
    fabric.launch()
    check_launch_precision(config.train)
    dataset, val = open_training_data(config)
    seed_all(config.train.seed)
    if not config.model.start_from:
        check_memory(config, len(dataset.classes), fabric.device)
    loaded, config = make_training_model(config, dataset, fresh=True)
    warn_of_crowded_images(config, dataset)
    loader = make_training_loader(config, dataset, loaded.card, fabric)
    check_training_support(loaded.model, config.train)
    with progress() as bar:
        task = bar.add_task("learning one batch by heart", total=OVERFIT_STEPS)
        try:
            return dry_run(
                config,
                loaded,
                loader,
                fabric,
                classes=len(dataset.classes),
                evaluation_forwards=0 if val is None else -(-len(val) // config.images_per_micro_batch),
                on_step=lambda *_: bar.advance(task),
            )
        except StepFailed as failed:
            where = f", first in {failed.culprit}" if failed.culprit else ""
            raise WorkFailed(
                f"{failed.what} is not finite (images {', '.join(map(str, failed.image_ids[:5]))}){where}"
            ) from None


def _train(config: RunConfig, folder: RunFolder, fabric: Fabric, resume: bool, job: str | None) -> Outcome:
    """Train in one process; every process runs this."""
    check_launch_precision(config.train)
    dataset, val = open_training_data(config)
    seed_all(config.train.seed)  # the same first weights in every process
    if not config.model.start_from:
        check_memory(config, len(dataset.classes), fabric.device)
    continues = resume and folder.has_state
    saved = read_checkpoint_card(folder / LAST) if continues and (folder / LAST).exists() else None
    loaded, config = make_training_model(config, dataset, fresh=not continues, saved=saved)
    warn_of_crowded_images(config, dataset)
    loader = make_training_loader(config, dataset, loaded.card, fabric)
    check_training_support(loaded.model, config.train)
    hooks = Hooks(
        evaluate=None if val is None else _make_evaluate(config, loaded.card, val, folder, fabric),
        evaluation_forwards=0 if val is None else -(-len(val) // config.images_per_micro_batch),
        recorder=make_recorder(config, loaded, folder, dataset, val),
        after_epoch=[lambda path: draw_curves([path], path / CURVES)],
        image_name=lambda image_id: f"{image_id} ({dataset.image(image_id).path.name})",
    )
    with ExitStack() as stack:
        if fabric.is_global_zero:  # after all checks of the settings, so that wrong ones leave no files
            if not resume:
                _begin(folder, job)
            more = stack.enter_context(tracked(config, folder))
            hooks = replace(hooks, after_epoch=[*hooks.after_epoch, *more])
            folder.write_config(config)
            stack.enter_context(log_to_run_folder(folder / LOG))
        fabric.barrier()
        precision = config.train.precision
        assert precision != "auto"
        return train_model(
            loaded.model,
            replace(loaded.card, precision=precision),
            loader,
            config.train,
            folder,
            fabric,
            hooks,
        )


def begun_by(folder: RunFolder) -> list[str]:
    """Return the marks of the jobs that have begun runs in a folder; the last is that of the run in it."""
    path = folder / JOBS / BEGUN
    return path.read_text(encoding="utf-8").split() if path.is_file() else []


def _begin(folder: RunFolder, job: str | None) -> None:
    """Remove an earlier run, and write down whose the new one is, before its first file."""
    marks = begun_by(folder)
    if marks and marks[-1] != job:  # first, so that no job takes for its own what is left if this is killed
        _write_marks(folder, [*marks, "-"])
    folder.clear()
    if job is not None:
        _write_marks(folder, [*marks, job])


def _write_marks(folder: RunFolder, marks: list[str]) -> None:
    (folder / JOBS).mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / JOBS / BEGUN) as path:
        path.write_text("\n".join(marks) + "\n", encoding="utf-8")


def _make_evaluate(
    config: RunConfig, card: ModelCard, val: DetectionDataset, folder: RunFolder, fabric: Fabric
) -> Callable[[nn.Module], Validation]:
    """Make the function that computes AP and thresholds on the validation images, and writes AP of each class."""
    precision = config.train.precision
    assert precision != "auto"
    evaluator = Evaluator(
        val,
        card,
        batch_size=config.images_per_micro_batch,
        workers=config.data.workers,
    )
    autocast = None if precision == "fp32" else DTYPES[precision]

    def evaluate(model: nn.Module) -> Validation:
        result = evaluator(ModulePredictor(model, fabric.device, autocast))
        if fabric.is_global_zero:
            write_class_csv(folder / PER_CLASS, result.evaluation)
        return Validation(result.evaluation.summary(), result.thresholds)

    return evaluate
