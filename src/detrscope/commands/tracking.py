"""Experiment trackers of a training run: what they need installed, and the images of attention that they get."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.inference.packages import require_packages
from detrscope.recording.recorder import load_recording_at
from detrscope.training.config import RunConfig, flatten_run_config
from detrscope.training.run_folder import RunFolder
from detrscope.training.trackers import Images, Trackers
from detrscope.training.train_config import LoggerName
from detrscope.views.timelapse import FilmOptions, films

MOST_IMAGES = 8  # probe images whose attention is logged
WANDB_WITHOUT_KEY = ("offline", "dryrun", "disabled")


def check_loggers(names: Sequence[LoggerName]) -> None:
    """Check that the packages of experiment trackers are installed, and that W&B has a key.

    Raises:
        UserError: says what to install or to do.
    """
    for name in names:
        require_packages(f"train.loggers: {name}", name, extra=name)
    if "wandb" in names and os.environ.get("WANDB_MODE", "").lower() not in WANDB_WITHOUT_KEY:
        import wandb

        try:
            known = wandb.login(prompt=False, verify=False)
        except Exception:  # its errors are of many types
            known = False
        if not known:
            raise UserError(
                "train.loggers: wandb has no API key; run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline"
            )


@contextmanager
def tracked(config: RunConfig, folder: RunFolder) -> Iterator[list[Callable[[Path], object]]]:
    """Open the trackers of a run within the `with`, and yield what to call after each epoch.

    Raises:
        UserError: a tracker cannot be used.
    """
    if not config.train.loggers:
        yield []
        return
    trackers = Trackers(
        config.train.loggers, folder, flatten_run_config(config), lambda step: attention_images(folder, step)
    )
    trackers.update()  # a kill may have come between the last epoch and its log
    try:
        yield [lambda _: trackers.update()]
    except BaseException:
        trackers.finish("failed")
        raise
    trackers.finish("success")


def attention_images(folder: RunFolder, step: int) -> Images:
    """Return the attention in the probe images at a step, over the images; nothing where no snapshot was taken."""
    recording = load_recording_at(folder, step)
    if recording is None:
        return {}
    names = list(recording.images)
    if len(names) > MOST_IMAGES:
        log.debug("images of attention: those of the first %d of %d probe images", MOST_IMAGES, len(names))
    images = {}
    for name in names[:MOST_IMAGES]:
        (film,) = films("boxes", recording, FilmOptions(image=name))
        images[f"attention/{name}"] = film.draw(0).pixels()
    return images
