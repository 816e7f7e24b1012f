"""Devices and precision of a training: what the settings, the launcher and the machine say."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from datetime import timedelta
from typing import Literal

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from lightning.fabric.utilities.exceptions import MisconfigurationException

from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.core.model_card import Precision
from detrscope.ops.kernels.machine import fastest_precision, warn_if_emulated
from detrscope.training.config import RunConfig, TrainConfig
from detrscope.training.train_state import gather_objects

PATIENCE = timedelta(
    minutes=10
)  # without a sign of another process; the first one may be busy with probe images
PRECISIONS: dict[Precision, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


def device_of(config: TrainConfig) -> torch.device:
    """The kind of device that a run takes."""
    if config.accelerator != "auto":
        return torch.device({"gpu": "cuda"}.get(config.accelerator, config.accelerator))
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def settle_devices(config: RunConfig) -> RunConfig:
    """The config with as many devices as the launcher (torchrun, srun) has started processes.

    Raises:
        UserError: the setting says another number.
    """
    world = os.environ.get("WORLD_SIZE", "")
    if not world.isdecimal() or os.environ.get("LOCAL_WORLD_SIZE") is None:  # not started by a launcher
        return config
    processes, asked = int(world), config.train.devices
    if asked not in (1, processes):
        raise UserError(
            f"train.devices is {asked}, but {processes} processes were started (WORLD_SIZE); leave the setting out"
        )
    return replace(config, train=replace(config.train, devices=processes))


def settle_precision(config: RunConfig) -> RunConfig:
    """The config with the precision that `auto` means here; a resumed run keeps that of its start."""
    asked, device = config.train.precision, device_of(config.train)
    if asked != "auto":
        warn_if_emulated(asked, device)
        return config
    precision = fastest_precision(device)
    log.info("precision %s: the fastest that this machine's %s computes natively", precision, device.type)
    return replace(config, train=replace(config.train, precision=precision))


def make_fabric(config: TrainConfig) -> Fabric:
    """Devices and precision.

    Raises:
        UserError: they are not there.
    """
    accelerator = config.accelerator
    assert config.precision != "auto"
    if config.precision == "fp16" and device_of(config).type == "cpu":
        raise UserError("train.precision is fp16, which needs a GPU: use bf16 or fp32 on a CPU")
    logging.getLogger("lightning.fabric").setLevel(
        logging.WARNING
    )  # it prints its precision whatever --quiet says
    local = os.environ.get("LOCAL_WORLD_SIZE", "")
    here = int(local) if local.isdecimal() and "WORLD_SIZE" in os.environ else config.devices
    try:
        return Fabric(
            accelerator=accelerator,
            devices=here,
            num_nodes=config.devices // here,
            precision=PRECISIONS[config.precision],
            strategy=DDPStrategy(timeout=PATIENCE) if config.devices > 1 else "auto",
        )
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise UserError(f"train.accelerator {accelerator}, train.devices {config.devices}: {error}") from None


def same_precision(config: TrainConfig, fabric: Fabric) -> None:
    """Check that every process has come to the same precision; each has asked its own machine.

    Raises:
        UserError: they have not.
    """
    found = gather_objects(fabric, config.precision)
    if len(set(found)) > 1:
        raise UserError(
            f"train.precision auto is {' and '.join(sorted(set(found)))} in processes of this training: set it to one"
        )
