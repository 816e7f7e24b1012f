"""Launch a training run: processes, nodes, devices and precision, as settings, launcher and machine give them."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import replace
from datetime import timedelta
from typing import Literal, NamedTuple

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
from lightning.fabric.strategies.strategy import Strategy
from lightning.fabric.utilities.exceptions import MisconfigurationException

from detrscope.console import log
from detrscope.core.distributed import gather_objects
from detrscope.core.errors import UserError
from detrscope.core.model_card import Precision
from detrscope.ops.kernels.freed_memory import keep_freed_memory
from detrscope.ops.kernels.native_precision import fastest_precision, warn_if_precision_emulated
from detrscope.training.config import RunConfig
from detrscope.training.sharding import shard_model
from detrscope.training.train_config import TrainConfig

PRECISIONS: dict[Precision, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


def launch_device(config: TrainConfig) -> torch.device:
    """Return the kind of device that a run takes."""
    if config.accelerator != "auto":
        return torch.device({"gpu": "cuda"}.get(config.accelerator, config.accelerator))
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


class Launched(NamedTuple):
    """Processes that a launcher has started."""

    nodes: int
    devices: int  # processes on each node


def launched_processes() -> Launched | None:
    """Return the processes that torchrun or srun has started this one with; None without such a launcher.

    A step of one task is no launcher: it may be a shell (`srun --pty bash`, `salloc`), or a command that starts the
    processes of its node itself.

    Raises:
        UserError: srun has started unequal numbers on its nodes.
    """
    world, local = (os.environ.get(name, "") for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if world.isdecimal() and local.isdecimal():
        return Launched(int(world) // int(local), int(local))
    # Of the job step, which srun sets in its tasks: a batch script has the other variables of the job too.
    tasks, nodes = (os.environ.get(name, "") for name in ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES"))
    if not (tasks.isdecimal() and nodes.isdecimal()) or int(tasks) == 1:
        return None
    if int(tasks) % int(nodes):
        raise UserError(
            f"srun has started {tasks} processes on {nodes} nodes: expected the same number on each; set"
            " --ntasks-per-node"
        )
    return Launched(int(nodes), int(tasks) // int(nodes))


def resolve_processes(config: RunConfig) -> RunConfig:
    """Fill in the nodes, and processes per node, that a launcher such as torchrun or srun has started.

    Raises:
        UserError: the settings contradict the launcher.
    """
    launched = launched_processes()
    if launched is None:
        return config
    train, (nodes, devices) = config.train, launched
    for name, configured, count in (("nodes", train.nodes, nodes), ("devices", train.devices, devices)):
        if configured not in (1, count):
            raise UserError(
                f"train.{name} is {configured}, but the launcher started {nodes * devices} processes, {devices} on each"
                f" node: leave the setting out, or set it to {count}"
            )
    return replace(config, train=replace(train, nodes=nodes, devices=devices))


def resolve_precision(config: RunConfig) -> RunConfig:
    """Fill in the precision that `auto` means on this machine; a resumed run keeps that of its start."""
    precision, device = config.train.precision, launch_device(config.train)
    if precision != "auto":
        warn_if_precision_emulated(precision, device)
        return config
    precision = fastest_precision(device)
    log.info("precision %s: the fastest that this machine's %s computes natively", precision, device.type)
    return replace(config, train=replace(config.train, precision=precision))


def make_fabric(config: TrainConfig) -> Fabric:
    """Make the engine that places models, casts products and joins processes.

    Raises:
        UserError: the devices are not there, or cannot compute in that precision.
    """
    assert config.precision != "auto"
    if config.precision == "fp16" and launch_device(config).type == "cpu":
        raise UserError("train.precision is fp16, which needs a GPU: use bf16 or fp32 on a CPU")
    if config.strategy == "fsdp" and config.processes == 1:
        raise UserError(
            "train.strategy is fsdp, which divides a model among processes, and there is one: set train.devices or"
            " train.nodes, or leave it out"
        )
    if launch_device(config).type == "cpu":
        keep_freed_memory()
    # Fabric prints its precision even with --quiet.
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # On a login node, and where torchrun starts the processes, srun is there and rightly not used.
            warnings.filterwarnings("ignore", "The `srun` command is available")
            return Fabric(
                accelerator=config.accelerator,
                devices=config.devices,
                num_nodes=config.nodes,
                precision=PRECISIONS[config.precision],
                strategy=_strategy(config),
                plugins=_environment(),
            )
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise UserError(
            f"train.accelerator {config.accelerator}, train.devices {config.devices}, train.nodes {config.nodes}:"
            f" {error}"
        ) from None


def _environment() -> ClusterEnvironment | None:
    """Return where a process learns its number from on Slurm, where Lightning goes by the job's name and variables.

    It takes a step of one task for a launcher where the job has tasks, and none for one where it is named `bash`.
    """
    if "SLURM_JOB_ID" not in os.environ or os.environ.get("LOCAL_WORLD_SIZE", "").isdecimal():
        return None
    return LightningEnvironment() if launched_processes() is None else SLURMEnvironment()


def _strategy(config: TrainConfig) -> Strategy | Literal["auto"]:
    """Return how the processes share the model."""
    if config.processes == 1:
        return "auto"
    timeout = timedelta(seconds=config.timeout)
    if config.strategy == "ddp":
        return DDPStrategy(timeout=timeout)
    return ModelParallelStrategy(
        shard_model, data_parallel_size=config.processes, tensor_parallel_size=1, timeout=timeout
    )


def check_launch_precision(config: TrainConfig) -> None:
    """Check that every process has resolved the same precision: each has asked its own machine.

    Raises:
        UserError: they differ.
    """
    precisions = sorted(set(gather_objects(config.precision)))
    if len(precisions) > 1:
        raise UserError(
            f"train.precision auto is {' and '.join(precisions)} in processes of this training: set it to one"
        )
