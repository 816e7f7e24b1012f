"""The training loop, top to bottom: epochs of steps, then evaluation, metrics, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from lightning.fabric import Fabric
from torch import nn

from detrscope.blocks.path import DetectionTransformer
from detrscope.checkpoints.native import save_checkpoint
from detrscope.console import console, log
from detrscope.console import progress as progress_bar
from detrscope.core.distributed import any_rank
from detrscope.core.errors import WorkFailed
from detrscope.core.model_card import ModelCard
from detrscope.core.operating_points import ThresholdTable
from detrscope.training.interrupt import Interruption, Preempted
from detrscope.training.losses.criterion import PAIRS, WEIGHTED
from detrscope.training.metrics_table import Row, describe_row, scores_of_row
from detrscope.training.optimizer import groups_table
from detrscope.training.outcome import Outcome
from detrscope.training.plan import Loader, TrainPlan
from detrscope.training.run_folder import BEST, LAST, RunFolder
from detrscope.training.schedule import make_schedule
from detrscope.training.timing import peak_memory_mb
from detrscope.training.train_config import TrainConfig
from detrscope.training.train_state import (
    TrainProgress,
    capture_train_state,
    require_same_progress,
    restore_train_state,
    seed_all,
)
from detrscope.training.train_step import MicroBatch, StepFailed, TrainStep

Scores = Mapping[str, float | None]  # AP and the like, 0..1; None is "undefined"


class Validation(NamedTuple):
    """Result of an evaluation on the validation images."""

    scores: Scores
    thresholds: ThresholdTable | None = None  # operating points, for the checkpoint's card


Recorder = Callable[[nn.Module, int, TrainPlan], object]
"""Called with the weights that would be saved, the number of steps taken, and the plan."""


@dataclass(frozen=True)
class Hooks:
    """Callbacks of a training run.

    Attributes:
        evaluate: model -> scores and thresholds; called by every process. None: no evaluation.
        evaluation_forwards: forward passes of one evaluation, for the estimate of the time left.
        recorder: called before the first step and after the steps that `config.recording` gives, by rank 0.
        after_epoch: called with the run folder after each epoch, by rank 0.
        image_name: image id -> its name in errors.
    """

    evaluate: Callable[[nn.Module], Validation] | None = None
    evaluation_forwards: int = 0
    recorder: Recorder | None = None
    after_epoch: Sequence[Callable[[Path], object]] = ()
    image_name: Callable[[int], str] = str


def train_model(
    model: DetectionTransformer,
    card: ModelCard,
    loader: Loader,
    config: TrainConfig,
    folder: RunFolder,
    fabric: Fabric,
    hooks: Hooks,
) -> Outcome:
    """Train, from the folder's last checkpoint where it has one.

    Args:
        model: the model; maps a Batch to Outputs.
        card: description of the model, for its checkpoints.
        loader: micro-batches of this process.
        config: how it learns.
        folder: the run folder.
        fabric: devices and precision, launched.
        hooks: evaluation, recording and the like.

    Raises:
        WorkFailed: a loss or gradient is NaN or infinite; the checkpoints are those of before.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint written.
    """
    return TrainingRun(TrainStep(model, config, fabric), card, loader, folder, hooks).run()


class TrainingRun:
    """A run, from its last checkpoint to its end."""

    def __init__(
        self, train_step: TrainStep, card: ModelCard, loader: Loader, folder: RunFolder, hooks: Hooks
    ) -> None:
        self.train_step, self.card, self.loader = train_step, card, loader
        self.folder, self.hooks = folder, hooks
        self.config, self.fabric = train_step.config, train_step.fabric
        self.plan = TrainPlan.of(self.config, loader)
        self.schedule = make_schedule(self.config.schedule, self.plan.steps_per_epoch, self.plan.total_steps)
        self.clock = self.plan.clock(self.config, hooks.evaluation_forwards if hooks.evaluate else None)
        self.interruption = Interruption()
        self.progress = self._start_or_resume()

    def run(self) -> Outcome:
        """Train to the end."""
        with self.interruption:
            return self._run()

    def _run(self) -> Outcome:
        plan, progress = self.plan, self.progress
        if self.fabric.is_global_zero:
            console().print(groups_table(self.train_step.groups, self.train_step.model))
        log.info("%d steps an epoch, %d in all", plan.steps_per_epoch, plan.total_steps)
        if (progress.step >= plan.total_steps or self._out_of_patience()) and not progress.micro_batches:
            log.info(
                "%s is finished already: %d epochs, %d steps", self.folder.path, progress.epoch, progress.step
            )
            return self._outcome()
        if not progress.step:
            self._record()
        while progress.step < plan.total_steps or progress.micro_batches:
            self._train_epoch()
            self._end_epoch()
            if self._out_of_patience():
                log.info("no better AP in %d evaluations: training ends early", self.config.patience)
                break
        log.info("finished: %d epochs, %d steps", progress.epoch, progress.step)
        if progress.best_epoch:
            log.info("best AP %.3f after epoch %d", progress.best_ap, progress.best_epoch)
        return self._outcome()

    def _train_epoch(self) -> None:
        """Take the steps of one epoch, or those that are left of it."""
        plan, progress, config, device = self.plan, self.progress, self.config, self.fabric.device
        if progress.micro_batches >= plan.micro_batches_per_epoch or progress.step >= plan.total_steps:
            return  # trained before an interruption; its evaluation is left
        self.train_step.train_mode()
        self.loader.set_epoch(progress.epoch, skip=progress.micro_batches)
        self.clock.start()
        with self.interruption.deferred() as interruption, progress_bar(time_left=False) as bar:
            name = f"epoch {progress.epoch + 1}/{config.epochs}"
            done, visible = progress.micro_batches // config.accumulate, self.fabric.is_global_zero
            task = bar.add_task(name, total=plan.steps_per_epoch, completed=done, visible=visible)
            for micro_batches in _groups(self.loader, config.accumulate, interruption):
                loss = self._take_step(micro_batches)
                text = f"{name} loss {loss:.3g} left {self.clock.left(progress.step)}"
                bar.update(task, advance=1, description=text)
                if progress.step >= plan.total_steps or any_rank(interruption.requested, device):
                    break
                if config.checkpoint_every and progress.step % config.checkpoint_every == 0:
                    self._save_state()
            if stopped := any_rank(interruption.requested, device):
                self._save_state()
        if stopped:
            log.info("stopped in epoch %d after step %d", progress.epoch + 1, progress.step)
            raise KeyboardInterrupt if any_rank(interruption.stops, device) else Preempted

    def _take_step(self, micro_batches: Sequence[MicroBatch]) -> float:
        """Take one step, account for it, record a snapshot where one is due, and return the loss."""
        progress = self.progress
        try:
            values = self.train_step.step(micro_batches, progress.step, self.schedule)
        except StepFailed as error:
            raise self._failure(error) from None
        progress.step += 1
        progress.micro_batches += len(micro_batches)
        progress.images += self.fabric.world_size * sum(len(targets) for _, targets, _ in micro_batches)
        progress.seconds += self.clock.step()
        pairs = values.pop(PAIRS)
        progress.averages.add(values, dict.fromkeys(WEIGHTED, pairs))
        self.clock.log_estimate(progress.step)
        if self.plan.snapshot_due(progress.step, self.config.recording.every):
            self._record()
        return values["loss"]

    def _record(self) -> None:
        """Take a snapshot of the probe images, where there are any."""
        if self.hooks.recorder is None:
            return
        model = self.train_step.eval_model  # in every process: each may have a part of it
        if self.fabric.is_global_zero:
            with self.clock.other("snapshot"):
                self.hooks.recorder(model, self.progress.step, self.plan)

    def _end_epoch(self) -> None:
        """Evaluate where it is due, write metrics and checkpoints, and go on to the next epoch."""
        progress, hooks, model = self.progress, self.hooks, self.train_step.eval_model
        row = self._row()
        last = progress.step >= self.plan.total_steps
        thresholds = None
        if hooks.evaluate and (last or (progress.epoch + 1) % self.config.evaluate_every == 0):
            self._save_state()  # when the evaluation is cut short, only it is repeated
            with self.clock.other("evaluation"):
                scores, thresholds = hooks.evaluate(model)
            row |= {f"val/{name}": value for name, value in scores.items()}
            self._keep_best(model, scores, thresholds)
        if self.fabric.is_global_zero:
            card = replace(self.card, metrics=scores_of_row(row), thresholds=thresholds)
            save_checkpoint(self.folder / LAST, model, card)
            self.folder.add_row(row)
            log.info("%s  left %s", describe_row(row, self.config.epochs), self.clock.left(progress.step))
        progress.start_epoch()
        self._save_state()
        if self.fabric.is_global_zero:
            with self.clock.other("end of epoch"):
                for callback in hooks.after_epoch:
                    callback(self.folder.path)

    def _out_of_patience(self) -> bool:
        """Return whether so many evaluations have brought no better AP that training ends."""
        patience, best = self.config.patience * self.config.evaluate_every, self.progress.best_epoch
        return bool(patience and best) and self.progress.epoch - best >= patience

    def _start_or_resume(self) -> TrainProgress:
        seed_all(self.config.seed + self.fabric.global_rank)  # for dropout; the loader has its own
        state = self.folder.load_state()
        progress = TrainProgress() if state is None else restore_train_state(state, self.train_step)
        require_same_progress(progress, self.folder.path)
        if state is not None:
            log.info("resuming after epoch %d, step %d", progress.epoch, progress.step)
            if self.fabric.is_global_zero:
                self.folder.check_tables(progress.epoch)
        return progress

    def _save_state(self) -> None:
        state = capture_train_state(self.train_step, self.progress)
        if self.fabric.is_global_zero:
            self.folder.save_state(state)

    def _keep_best(self, model: nn.Module, scores: Scores, thresholds: ThresholdTable | None) -> None:
        """Save the checkpoint where its AP, of masks where there are any, is the highest so far."""
        ap, progress = scores.get("mask_AP", scores.get("AP")), self.progress
        if ap is None or (progress.best_ap is not None and ap <= progress.best_ap):
            return
        progress.best_ap, progress.best_epoch = ap, progress.epoch + 1
        if self.fabric.is_global_zero:
            metrics = {name: value for name, value in scores.items() if value is not None}
            card = replace(self.card, metrics=metrics, thresholds=thresholds)
            save_checkpoint(self.folder / BEST, model, card)

    def _row(self) -> Row:
        """Return the metrics of the epoch that has just been trained; docs/formats.md lists them."""
        progress, device = self.progress, self.fabric.device
        rate = self.schedule(progress.step - 1)
        return {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            **{f"train/{name}": value for name, value in progress.averages.means().items()},
            **{f"lr/{group.name}": group.lr * rate for group in self.train_step.groups},
            "seconds": round(progress.seconds, 3),
            "images_per_second": round(progress.images / max(progress.seconds, 1e-9), 3),
            "memory_mb": peak_memory_mb(device),
        }

    def _failure(self, error: StepFailed) -> WorkFailed:
        images = ", ".join(self.hooks.image_name(image_id) for image_id in error.image_ids[:8])
        more = f" and {len(error.image_ids) - 8} more" if len(error.image_ids) > 8 else ""
        culprit = f"; first non-finite output: {error.culprit}" if error.culprit else ""
        return WorkFailed(
            f"{error.what} is not finite in epoch {self.progress.epoch + 1}, step {self.progress.step + 1}{culprit};"
            f" images: {images}{more}; the checkpoints in {self.folder.path} are from before;"
            f" try a lower train.lr or a smaller train.clip"
        )

    def _outcome(self) -> Outcome:
        progress = self.progress
        return Outcome(self.folder.path, progress.epoch, progress.step, progress.best_ap, progress.best_epoch)


def _groups(loader: Loader, size: int, interruption: Interruption) -> Iterator[list[MicroBatch]]:
    """Yield the micro-batches of each optimiser step."""
    micro_batches = iter(loader)
    try:
        while group := list(islice(micro_batches, size)):
            yield group
    except RuntimeError:
        if not interruption.requested:  # else Ctrl-C has ended the loader's workers
            raise
