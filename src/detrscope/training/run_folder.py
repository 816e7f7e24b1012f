"""The run folder. Every file but the log is written whole or not at all.

config.yaml                       the resolved settings; `--config` reads them back
metrics.csv, metrics.jsonl        one row per epoch, the same in both
last.pt                           everything that `--resume` needs
previous.pt                       the one before, should last.pt be damaged
last.safetensors                  the model after the last epoch
best.safetensors                  the model with the highest AP so far
curves.png, per_class.csv         rewritten after each epoch and each evaluation
attention.csv, attention.jsonl    one row per snapshot, the same in both, where the probe images have ground truth
snapshots/                        snapshots of the probe images, for `detrscope timelapse`
traces/                           full traces of the probe images at some snapshots, for `detrscope see`
loggers.json                      what experiment trackers have got so far
tensorboard/                      event files, with train.loggers=[tensorboard]
log.txt                           terminal log with timestamps
"""

from __future__ import annotations

import logging
import os
import platform
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from detrscope._version import __version__
from detrscope.config import to_yaml
from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.core.file_lock import locked
from detrscope.core.files import atomic_write, remove_temporary_files
from detrscope.training.config import RunConfig, flatten_run_config, resolve_training_config
from detrscope.training.metrics_table import MetricsTable, Row

CONFIG, STATE, LAST, BEST = "config.yaml", "last.pt", "last.safetensors", "best.safetensors"
PREVIOUS = "previous.pt"
METRICS_CSV, METRICS_JSONL, CURVES, LOG = "metrics.csv", "metrics.jsonl", "curves.png", "log.txt"
PER_CLASS = "per_class.csv"
ATTENTION_CSV, ATTENTION_JSONL = "attention.csv", "attention.jsonl"
SNAPSHOTS, TRACES = "snapshots", "traces"  # folders: compact snapshots, full traces
LOGGERS, TENSORBOARD = "loggers.json", "tensorboard"
TENSORBOARD_FILES = ("events.out.tfevents.*", "hparams.yaml")
SNAPSHOT_FILES = ("step_*.safetensors", "*.trace")
TABLES = (METRICS_CSV, METRICS_JSONL, ATTENTION_CSV, ATTENTION_JSONL)
FILES = (CONFIG, STATE, PREVIOUS, LAST, BEST, *TABLES, CURVES, PER_CLASS, LOGGERS, LOG)

# Settings that a resumed run may change: none that alters the numbers of the epochs that are done.
CHANGEABLE = (
    "source",
    "data.source",  # the same images may have moved
    "data.val_source",
    "data.workers",
    "data.cache",
    "train.epochs",
    "train.max_steps",
    "train.evaluate_every",
    "train.patience",
    "train.checkpoint_every",
    "train.accelerator",
    "train.devices",
    "train.nodes",
    "train.strategy",
    "train.timeout",
    "train.threads",
    "train.loggers",
)


class RunFolder:
    """One run on disk."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._metrics = MetricsTable(self.path / "metrics", "epoch")
        self._attention = MetricsTable(self.path / "attention", "step")

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def in_use(self) -> bool:
        """Whether the folder holds a run."""
        return any((self / name).exists() for name in (CONFIG, STATE, PREVIOUS, METRICS_JSONL))

    @property
    def has_state(self) -> bool:
        """Whether a checkpoint to resume from has been written."""
        return (self / STATE).is_file() or (self / PREVIOUS).is_file()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock in the `with`, and remove unfinished files of a killed process.

        Raises:
            UserError: another training is running in the folder.
        """
        with locked(self.path, "another training"):
            count = remove_temporary_files(self.path, FILES)
            if count:
                log.info("%s: removed %d unfinished files of a process that was killed", self.path, count)
            yield

    def refuse_if_in_use(self, overwrite: bool) -> None:
        """Raise if the folder contains a run that must not be overwritten.

        Raises:
            UserError: the folder holds a run and `overwrite` is off, or the path is a file.
        """
        if self.path.is_file():
            raise UserError(f"{self.path}: is a file; expected a folder as out")
        if self.in_use and not overwrite:
            raise UserError(
                f"{self.path}: already contains a run; continue it with resume=True, replace it with overwrite=True,"
                " or choose another folder"
            )

    def clear(self) -> None:
        """Remove the files of an earlier run; others stay."""
        for name in FILES:
            (self / name).unlink(missing_ok=True)
        patterns = {SNAPSHOTS: SNAPSHOT_FILES, TRACES: SNAPSHOT_FILES, TENSORBOARD: TENSORBOARD_FILES}
        for folder, names in patterns.items():
            for pattern in names:
                for path in (self / folder).glob(pattern):
                    path.unlink()

    def write_config(self, config: RunConfig) -> None:
        """Write the settings, below a comment that names the versions of the software."""
        versions = f"detrscope {__version__}, torch {torch.__version__}, Python {platform.python_version()}"
        with atomic_write(self / CONFIG) as path:
            path.write_text(f"# {versions}\n{to_yaml(config)}", encoding="utf-8")

    def config(self) -> RunConfig:
        """Read the settings of the run.

        Raises:
            UserError: the folder holds no run.
        """
        if not (self / CONFIG).is_file():
            raise UserError(
                f"{self.path}: no run to resume ({CONFIG} is missing); start a new one without resume=True"
            )
        return resolve_training_config(file=self / CONFIG)

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Replace the training state atomically; the one before is kept as `previous.pt`."""
        with atomic_write(self / STATE) as path:
            torch.save(dict(state), path)
            if (self / STATE).is_file():
                os.replace(self / STATE, self / PREVIOUS)

    def load_state(self) -> dict[str, Any] | None:
        """Read the training state to the CPU; None before the first checkpoint.

        Where the last one is damaged or missing, the one before is read, with a warning.

        Raises:
            UserError: neither can be read, or both are missing though epochs were trained.
        """
        problems = []
        for name in (STATE, PREVIOUS):
            if not (self / name).is_file():
                continue
            try:
                state = _read_state(self / name)
            except UserError as error:
                problems.append(str(error))
                continue
            if name == PREVIOUS:
                reason = problems[0] if problems else f"{self / STATE} is missing"
                log.warning("%s; going on from %s, the checkpoint before it", reason, self / PREVIOUS)
            return state
        if problems:
            raise UserError(f"{problems[0]}; {self._advice()}")
        if rows := self.rows():
            raise UserError(
                f"{self / STATE}: missing, though {rows[-1]['epoch']} epochs were trained; {self._advice()}"
            )
        return None

    def _advice(self) -> str:
        return f"start a new run with from_={self / LAST}, or replace this one with overwrite=True"

    def check_tables(self, epoch: int) -> None:
        """Warn of lost rows of the tables, on resuming after `epoch` epochs."""
        known = {row["epoch"] for row in self.rows()}
        lost = [number for number in range(1, epoch + 1) if number not in known]
        if lost:
            log.warning(
                "%s: the metrics of %d epochs are lost, such as %d", self / METRICS_JSONL, len(lost), lost[0]
            )
        self.attention_rows()  # warns of damaged lines

    def rows(self) -> list[Row]:
        """Return the metrics so far, one row per epoch."""
        return self._metrics.rows()

    def attention_rows(self) -> list[Row]:
        """Return the attention on the parts of the probe images so far, one row per snapshot."""
        return self._attention.rows()

    def add_row(self, row: Row) -> None:
        """Write an epoch's metrics, in place of rows of that epoch or later."""
        self._metrics.add(row)

    def add_attention_row(self, row: Row) -> None:
        """Write the attention measured at a snapshot, in place of rows of that step or later."""
        self._attention.add(row)


def _read_state(path: Path) -> dict[str, Any]:
    """Read a training state after checking its checksums.

    Raises:
        UserError: it is damaged, or no training state.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load ignores the checksums that torch.save writes
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(f"{path}: is not a training state that can be read ({error})") from None
    if damaged is not None:
        raise UserError(f"{path}: is damaged (the checksum of {damaged} is wrong)")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises errors of many types for damaged files
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(f"{path}: is not a training state that can be read ({reason})") from None
    keys = {"format", "progress", "model", "optimizer", "random"}
    if not isinstance(state, dict) or not keys <= state.keys():
        raise UserError(f"{path}: is not the training state of a run")
    return state


@contextmanager
def log_to_run_folder(path: Path) -> Iterator[None]:
    """Append the log to a file too, with times, in the `with`; a quiet terminal stays quiet."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level, levels = log.level, [(other, other.level) for other in log.handlers]
    for other, own in levels:
        other.setLevel(max(level, own))
    log.setLevel(min(level or logging.INFO, logging.INFO))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
        log.setLevel(level)
        for other, own in levels:
            other.setLevel(own)


def refuse_changes(old: RunConfig, new: RunConfig, path: Path) -> None:
    """Check that a resumed run keeps its settings; log the changes that are allowed.

    Raises:
        UserError: naming the settings that differ.
    """
    before, after = flatten_run_config(old), flatten_run_config(new)
    keys: Iterable[str] = dict.fromkeys([*before, *after])
    changes = {k: f"{k} {before.get(k)} -> {after.get(k)}" for k in keys if before.get(k) != after.get(k)}
    for key in CHANGEABLE:
        if key in changes:
            log.info("resuming with %s", changes.pop(key))
    if changes:
        listed = ", ".join(changes.values())
        raise UserError(
            f"{path}: a resumed run must keep its settings, but these differ: {listed}; leave them out,"
            f" or start a new run from its weights with from_={path / LAST}"
        )
