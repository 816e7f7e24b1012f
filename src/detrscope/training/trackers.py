"""Experiment trackers by Lightning's loggers: TensorBoard, Weights & Biases, MLflow; one run in each, resumed or not.

Each tracker takes numbers, images and settings; `Trackers` sends the rows of a run folder that they have not got yet.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.core.files import atomic_write
from detrscope.training.metrics_table import Row
from detrscope.training.run_folder import LOGGERS, TENSORBOARD, RunFolder
from detrscope.training.train_config import LoggerName

PROJECT = "detrscope"  # in W&B and MLflow, unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME name another
Status = Literal["success", "failed"]
Images = Mapping[str, np.ndarray]  # uint8 [H, W, 3] by name


@dataclass
class Logged:
    """What a tracker has got so far.

    Attributes:
        run: its name of the run; empty where it needs none.
        epoch: last epoch.
        step: its step.
    """

    run: str = ""
    epoch: int = 0
    step: int = -1

    def advance(self, epoch: int, step: int) -> None:
        """Note an epoch and its step, unless they are older."""
        self.epoch, self.step = max((self.epoch, self.step), (epoch, step))


class Tracker(Protocol):
    """A run in an experiment tracker."""

    logged: Logged
    where: str

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """Log the settings of a new run."""

    def log_numbers(self, numbers: Mapping[str, float], step: int) -> None:
        """Log numbers by name."""

    def log_image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Log an image, uint8 [H, W, 3]."""

    def finish(self, status: Status) -> None:
        """Close the run."""


class _TensorBoard:
    """Event files in the run folder; what a killed process logged beyond `logged` is declared void in them."""

    def __init__(self, folder: RunFolder, logged: Logged) -> None:
        from lightning.pytorch.loggers import TensorBoardLogger

        self.logged, self.where = logged, f"tensorboard --logdir {folder.path}"
        self.logger = TensorBoardLogger(
            folder.path,
            name=TENSORBOARD,
            version="",
            default_hp_metric=False,
            purge_step=logged.step + 1 if logged.epoch else None,
        )

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        self.logger.log_hyperparams(dict(settings))
        self.logger.save()  # hparams.yaml
        rows = "".join(f"| {name} | {value} |\n" for name, value in settings.items())
        self.logger.experiment.add_text("settings", f"| setting | value |\n|---|---|\n{rows}", 0)

    def log_numbers(self, numbers: Mapping[str, float], step: int) -> None:
        self.logger.log_metrics(numbers, step)
        self.logger.experiment.flush()

    def log_image(self, name: str, pixels: np.ndarray, step: int) -> None:
        self.logger.experiment.add_image(name, pixels, step, dataformats="HWC")

    def finish(self, status: Status) -> None:
        self.logger.finalize(status)


class _Wandb:
    """A run of Weights & Biases, whose own variables hold: WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY."""

    def __init__(self, folder: RunFolder, logged: Logged) -> None:
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        self.logged = logged
        self.logged.run = logged.run or secrets.token_hex(4)
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=folder.path.resolve().name,
            dir=str(folder.path),
            id=self.logged.run,
            resume="allow",
            reinit="create_new",  # a run of the caller's own is left alone
            settings=wandb.Settings(silent=True, console="off"),
        )
        run.define_metric("trainer/global_step")  # as Lightning's logger does for a run that it makes
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        self.logger = WandbLogger(experiment=run)
        self.where = f"run {run.id}, {f'wandb sync {Path(run.dir).parent}' if run.offline else run.url}"
        with suppress(KeyError, TypeError, ValueError):  # what the server of a resumed run has
            self.logged.advance(int(run.summary["epoch"]), int(run.summary["step"]))

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        self.logger.log_hyperparams(dict(settings))

    def log_numbers(self, numbers: Mapping[str, float], step: int) -> None:
        self.logger.log_metrics(numbers, step)

    def log_image(self, name: str, pixels: np.ndarray, step: int) -> None:
        self.logger.log_image(name, [pixels], step)

    def finish(self, status: Status) -> None:
        self.logger.experiment.finish(exit_code=0 if status == "success" else 1)


class _MLflow:
    """A run of MLflow, whose own variables hold: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, folder: RunFolder, logged: Logged) -> None:
        import mlflow
        from lightning.pytorch.loggers import MLFlowLogger

        self.logged = logged
        uri = os.environ.get("MLFLOW_TRACKING_URI") or mlflow.get_tracking_uri()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        if (
            mlflow.MlflowClient(uri).get_experiment_by_name(name) is None
        ):  # Lightning warns where it makes one
            mlflow.MlflowClient(uri).create_experiment(name)
        self.logger = MLFlowLogger(
            name,
            run_name=folder.path.resolve().name,
            tracking_uri=uri,
            run_id=logged.run or None,
            synchronous=True,
        )
        if logged.run:
            self.logger.experiment.update_run(logged.run, status="RUNNING")
            # What was logged before a kill, and not noted in the run folder.
            for entry in self.logger.experiment.get_metric_history(logged.run, "epoch"):
                self.logged.advance(int(entry.value), entry.step)
        self.logged.run = str(self.logger.run_id)
        self.where = f"run {self.logged.run} at {uri}"

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        self.logger.log_hyperparams(dict(settings))

    def log_numbers(self, numbers: Mapping[str, float], step: int) -> None:
        self.logger.log_metrics(numbers, step)

    def log_image(self, name: str, pixels: np.ndarray, step: int) -> None:
        self.logger.experiment.log_image(self.logger.run_id, pixels, key=name, step=step)

    def finish(self, status: Status) -> None:
        self.logger.finalize(status)


TRACKERS: dict[LoggerName, Callable[[RunFolder, Logged], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "mlflow": _MLflow,
}


class Trackers:
    """Trackers of a run, in the process that writes the run folder.

    What each has got is noted in `loggers.json`, so that a resumed run goes on in the same run of the tracker.
    A tracker that fails while a model trains is warned of, and gets what it lacks after the next epoch.

    Args:
        names: trackers to use.
        folder: the run folder, with its settings.
        settings: flat settings of the run.
        images: returns the images of a step, by name.

    Raises:
        UserError: a tracker cannot be reached or refuses; names it.
    """

    def __init__(
        self,
        names: Sequence[LoggerName],
        folder: RunFolder,
        settings: Mapping[str, Any],
        images: Callable[[int], Images],
    ) -> None:
        self.folder, self.images = folder, images
        self._noted = _read(folder / LOGGERS)
        self._trackers: dict[str, Tracker] = {}
        for name in names:
            try:
                tracker = TRACKERS[name](folder, self._noted.get(name, Logged()))
                if name not in self._noted:
                    tracker.log_settings(settings)
            except Exception as error:  # of another package, over a network
                self.finish("failed")
                raise UserError(f"train.loggers: {name} cannot be used: {_first_line(error)}") from None
            self._trackers[name] = tracker
            self._note(name, tracker.logged)
            log.info("logging to %s: %s", name, tracker.where)

    def update(self) -> None:
        """Log the epochs that the run folder has and a tracker has not, with attention and images of their steps."""
        for name, tracker in self._trackers.items():
            try:
                rows, attention = self.folder.rows(), self.folder.attention_rows()
                for row in rows:
                    if row["epoch"] > tracker.logged.epoch:
                        self._log_epoch(tracker, row, attention)
                        tracker.logged.advance(row["epoch"], row["step"])
                        self._note(name, tracker.logged)
            except Exception as error:
                log.warning("%s: not logged (%s); it is tried again later", name, _first_line(error))

    def finish(self, status: Status) -> None:
        """Log what is left, and close the runs."""
        self.update()
        for name, tracker in self._trackers.items():
            try:
                tracker.finish(status)
            except Exception as error:
                log.warning("%s: not closed (%s)", name, _first_line(error))

    def _log_epoch(self, tracker: Tracker, row: Row, attention: Sequence[Row]) -> None:
        """Log an epoch: attention since the last one, images of its step, then its numbers."""
        step = row["step"]
        for measured in attention:
            if tracker.logged.step < measured["step"] <= step:
                numbers = {f"attention/{key}": value for key, value in measured.items() if "/" in key}
                tracker.log_numbers(_numbers(numbers), measured["step"])
        try:
            images = self.images(step)
        except Exception as error:  # a damaged snapshot must not hold back the numbers
            log.warning("images of step %d cannot be drawn and are not logged: %s", step, _first_line(error))
            images = {}
        for name, pixels in images.items():
            tracker.log_image(name, pixels, step)
        tracker.log_numbers(_numbers(row), step)

    def _note(self, name: str, logged: Logged) -> None:
        self._noted[name] = logged
        with atomic_write(self.folder / LOGGERS) as path:
            tree = {name: asdict(logged) for name, logged in self._noted.items()}
            path.write_text(json.dumps(tree, indent=1), encoding="utf-8")


def _read(path: Path) -> dict[str, Logged]:
    """Read what the trackers have got.

    Raises:
        UserError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: Logged(str(one["run"]), int(one["epoch"]), int(one["step"])) for name, one in tree.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path}: is damaged; remove it, and the trackers begin new runs") from None


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the values that are defined."""
    return {name: float(value) for name, value in row.items() if isinstance(value, int | float)}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
