"""The training loop, top to bottom: epochs of steps, then evaluation, metrics, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

from lightning.fabric import Fabric
from torch import nn

from detrscope.blocks.path import DetectionTransformer
from detrscope.checkpoints.native import save_checkpoint
from detrscope.console import console, log, progress
from detrscope.core.distributed import any_rank
from detrscope.core.errors import WorkFailed
from detrscope.core.model_card import ModelCard
from detrscope.training.interrupt import Interruption
from detrscope.training.losses.criterion import PAIRS, WEIGHTED
from detrscope.training.optimizer import groups_table
from detrscope.training.run_folder import BEST, LAST, Row, RunFolder
from detrscope.training.schedule import Schedule, make_schedule
from detrscope.training.timing import FORWARD, Clock, peak_memory_mb
from detrscope.training.train_config import TrainConfig
from detrscope.training.train_state import TrainProgress, capture, restore, seed_all, set_random_state
from detrscope.training.train_step import MicroBatch, StepFailed, TrainStep

Scores = Mapping[str, float | None]  # AP and the like, 0..1; None is "undefined"


class Loader(Protocol):
    """Passes of one epoch; the same epoch gives the same passes."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[MicroBatch]: ...

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Say which epoch comes next and how many of its passes were already taken."""
        ...


@dataclass(frozen=True)
class TrainPlan:
    """How long a run is."""

    passes_per_epoch: int
    steps_per_epoch: int
    total_steps: int

    @classmethod
    def of(cls, config: TrainConfig, loader: Loader) -> TrainPlan:
        """The plan of a config. An epoch's last step may have fewer passes than `accumulate`."""
        loader.set_epoch(0)
        passes = len(loader)
        steps = -(-passes // config.accumulate)
        total = steps * config.epochs
        return cls(passes, steps, min(total, config.max_steps or total))

    def snapshot_due(self, step: int, every: int | None) -> bool:
        """Return whether a snapshot is due after `step` steps; `every` None means each epoch."""
        return step % (every or self.steps_per_epoch) == 0 or step >= self.total_steps


Recorder = Callable[[nn.Module, int, TrainPlan], object]
"""Called with the weights that would be saved, the number of steps taken, and the plan."""


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    folder: Path
    epochs: int
    steps: int
    best_ap: float | None  # 0..1; None where nothing was evaluated
    best_epoch: int


def train_model(
    model: DetectionTransformer,
    card: ModelCard,
    loader: Loader,
    config: TrainConfig,
    folder: RunFolder,
    fabric: Fabric,
    *,
    evaluate: Callable[[nn.Module], Scores] | None = None,
    after_epoch: Sequence[Callable[[Path], object]] = (),
    recorder: Recorder | None = None,
    name_of: Callable[[int], str] = str,
    evaluation_passes: int = 0,
) -> Outcome:
    """Train, from the folder's last checkpoint where it has one.

    Args:
        model: what learns; maps a Batch to Outputs.
        card: what its checkpoints say about it.
        loader: this process's passes.
        config: how it learns.
        folder: where the run is written to.
        fabric: devices and precision, launched.
        evaluate: model -> scores; called by every process. None: no evaluation.
        after_epoch: called with the folder after each epoch, by the first process.
        recorder: called before the first step and after the steps that `config.recording` gives, by rank 0.
        name_of: what to call an image id in an error.
        evaluation_passes: forward passes of one evaluation, for the estimate of the time left.

    Raises:
        WorkFailed: a loss or gradient is NaN or infinite; the checkpoints are those of before.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint written.
    """
    learner = TrainStep(model, config, fabric)
    plan = TrainPlan.of(config, loader)
    schedule = make_schedule(config.schedule, plan.steps_per_epoch, plan.total_steps)
    position = _start_or_resume(learner, folder)
    if fabric.is_global_zero:
        console().print(groups_table(learner.groups, model))
        log.info("%d steps an epoch, %d in all", plan.steps_per_epoch, plan.total_steps)
    clock = _make_clock(plan, config, evaluates=evaluate is not None, passes=evaluation_passes)
    if position.step >= plan.total_steps and not position.passes:
        log.info("%s is finished already: %d epochs, %d steps", folder.path, position.epoch, position.step)
        return _outcome(folder, position)
    if recorder and fabric.is_global_zero and not position.step:
        recorder(learner.eval_model, 0, plan)
    while position.step < plan.total_steps or position.passes:
        _train_epoch(learner, loader, schedule, plan, position, folder, clock, recorder, name_of)
        row = _row(learner, schedule, position)
        ends = position.step >= plan.total_steps
        if evaluate and (ends or (position.epoch + 1) % config.evaluate_every == 0):
            _save_state(learner, position, folder)  # when the evaluation is cut short, only it is repeated
            with clock.other("evaluation"):
                scores = dict(evaluate(learner.eval_model))
            row |= {f"val/{name}": value for name, value in scores.items()}
            _keep_best(learner, card, scores, position, folder)
        if fabric.is_global_zero:
            save_checkpoint(folder / LAST, learner.eval_model, replace(card, metrics=_scores_in(row)))
            folder.add_row(row)
            log.info("%s  left %s", _summary(row, config.epochs), clock.left(position.step))
        position.start_epoch()
        _save_state(learner, position, folder)
        if fabric.is_global_zero:
            with clock.other("end of epoch"):
                for callback in after_epoch:
                    callback(folder.path)
    if fabric.is_global_zero:
        log.info("finished: %d epochs, %d steps", position.epoch, position.step)
    if fabric.is_global_zero and position.best_epoch:
        log.info("best AP %.3f after epoch %d", position.best_ap, position.best_epoch)
    return _outcome(folder, position)


def _make_clock(plan: TrainPlan, config: TrainConfig, *, evaluates: bool, passes: int) -> Clock:
    """The clock, told how many evaluations, snapshots and ends of epochs are left."""

    def epochs(step: int) -> int:
        return -(-(plan.total_steps - step) // plan.steps_per_epoch)

    def snapshots(step: int) -> int:
        return -(-(plan.total_steps - step) // (config.recording.every or plan.steps_per_epoch))

    def evaluations(step: int) -> int:
        return (
            -(-(plan.total_steps - step) // (config.evaluate_every * plan.steps_per_epoch))
            if evaluates
            else 0
        )

    due = {"end of epoch": epochs, "snapshot": snapshots, "evaluation": evaluations}
    return Clock(plan.steps_per_epoch, plan.total_steps, due, {"evaluation": FORWARD * passes})


def _train_epoch(
    learner: TrainStep,
    loader: Loader,
    schedule: Schedule,
    plan: TrainPlan,
    position: TrainProgress,
    folder: RunFolder,
    clock: Clock,
    recorder: Recorder | None,
    name_of: Callable[[int], str],
) -> None:
    """The steps of one epoch, or those that are left of it."""
    if position.passes >= plan.passes_per_epoch or position.step >= plan.total_steps:
        return  # trained before an interruption; its evaluation is left
    fabric, config = learner.fabric, learner.config
    learner.train_mode()
    loader.set_epoch(position.epoch, skip=position.passes)
    clock.start()
    with Interruption() as interruption, progress(time_left=False) as bar:
        name = f"epoch {position.epoch + 1}/{config.epochs}"
        done = position.passes // config.accumulate
        task = bar.add_task(name, total=plan.steps_per_epoch, completed=done, visible=fabric.is_global_zero)
        for passes in _groups(loader, config.accumulate, interruption):
            try:
                values = learner.step(passes, position.step, schedule)
            except StepFailed as error:
                raise _failure(error, position, folder, name_of) from None
            position.step += 1
            position.passes += len(passes)
            position.images += fabric.world_size * sum(len(targets) for _, targets, _ in passes)
            position.seconds += clock.step()
            pairs = values.pop(PAIRS)
            position.averages.add(values, dict.fromkeys(WEIGHTED, pairs))
            text = f"{name} loss {values['loss']:.3g} left {clock.left(position.step)}"
            bar.update(task, advance=1, description=text)
            if fabric.is_global_zero:
                clock.log_estimate(position.step)
                if recorder and plan.snapshot_due(position.step, config.recording.every):
                    with clock.other("snapshot"):
                        recorder(learner.eval_model, position.step, plan)
            if position.step >= plan.total_steps or any_rank(interruption.requested, fabric.device):
                break
            if config.checkpoint_every and position.step % config.checkpoint_every == 0:
                _save_state(learner, position, folder)
    if any_rank(interruption.requested, fabric.device):
        _save_state(learner, position, folder)
        log.info("stopped in epoch %d after step %d", position.epoch + 1, position.step)
        raise KeyboardInterrupt


def _groups(loader: Loader, size: int, interruption: Interruption) -> Iterator[list[MicroBatch]]:
    """The passes of each optimiser step."""
    passes = iter(loader)
    try:
        while group := list(islice(passes, size)):
            yield group
    except RuntimeError:
        if not interruption.requested:  # else Ctrl-C has ended the loader's workers
            raise


def _start_or_resume(learner: TrainStep, folder: RunFolder) -> TrainProgress:
    fabric = learner.fabric
    seed_all(learner.config.seed + fabric.global_rank)  # for dropout; the order of images is the loader's
    state = folder.load_state()
    if state is None:
        return TrainProgress()
    position = restore(state, fabric, learner.model, learner.optimizer, learner.ema)
    if len(state["random"]) == fabric.world_size:
        set_random_state(state["random"][fabric.global_rank])
    else:
        log.warning("resuming on another number of devices: dropout will not be that of an uninterrupted run")
    log.info("resuming after epoch %d, step %d", position.epoch, position.step)
    if fabric.is_global_zero:
        folder.check_tables(position.epoch)
    return position


def _save_state(learner: TrainStep, position: TrainProgress, folder: RunFolder) -> None:
    state = capture(learner.fabric, learner.model, learner.optimizer, learner.ema, position)
    if learner.fabric.is_global_zero:
        folder.save_state(state)


def _keep_best(
    learner: TrainStep, card: ModelCard, scores: Scores, position: TrainProgress, folder: RunFolder
) -> None:
    ap = scores.get("AP")
    if ap is None or (position.best_ap is not None and ap <= position.best_ap):
        return
    position.best_ap, position.best_epoch = ap, position.epoch + 1
    if learner.fabric.is_global_zero:
        metrics = {name: value for name, value in scores.items() if value is not None}
        save_checkpoint(folder / BEST, learner.eval_model, replace(card, metrics=metrics))


def _row(learner: TrainStep, schedule: Schedule, position: TrainProgress) -> Row:
    """The metrics of the epoch that has just been trained; docs/training.md lists them."""
    rate = schedule(position.step - 1)
    return {
        "epoch": position.epoch + 1,
        "step": position.step,
        **{f"train/{name}": value for name, value in position.averages.means(learner.fabric.device).items()},
        **{f"lr/{group.name}": group.lr * rate for group in learner.groups},
        "seconds": round(position.seconds, 3),
        "images_per_second": round(position.images / max(position.seconds, 1e-9), 3),
        "memory_mb": peak_memory_mb(learner.fabric.device),
    }


def _scores_in(row: Row) -> dict[str, float]:
    return {k.removeprefix("val/"): v for k, v in row.items() if k.startswith("val/") and v is not None}


def _summary(row: Row, epochs: int) -> str:
    """An epoch in one line."""
    parts = [f"epoch {row['epoch']}/{epochs}  loss {row['train/loss']:.3f}"]
    parts += [f"{name} {row[f'train/loss_{name}']:.3f}" for name in ("class", "box", "giou")]
    parts += [f"{name} {value:.3f}" for name, value in _scores_in(row).items() if name in ("AP", "AP50")]
    return "  ".join([*parts, f"{row['images_per_second']:.3g} images/s"])


def _failure(
    error: StepFailed, position: TrainProgress, folder: RunFolder, name_of: Callable[[int], str]
) -> WorkFailed:
    images = ", ".join(name_of(image_id) for image_id in error.image_ids[:8])
    more = f" and {len(error.image_ids) - 8} more" if len(error.image_ids) > 8 else ""
    culprit = f"; the first to put out such a number: {error.culprit}" if error.culprit else ""
    return WorkFailed(
        f"{error.what} is not finite in epoch {position.epoch + 1}, step {position.step + 1}{culprit};"
        f" images: {images}{more}; the checkpoints in {folder.path} are from before;"
        f" try a lower train.lr or a smaller train.clip"
    )


def _outcome(folder: RunFolder, position: TrainProgress) -> Outcome:
    return Outcome(folder.path, position.epoch, position.step, position.best_ap, position.best_epoch)
