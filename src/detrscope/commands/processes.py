"""Several processes of one command: start or join them, and end in one line when one of them is lost."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from lightning.fabric import Fabric

from detrscope.core.errors import UserError, WorkFailed
from detrscope.inference.load_detector import LoadOptions
from detrscope.inference.torch_engine import choose_device
from detrscope.training.launch import launched_processes, make_fabric
from detrscope.training.train_config import TrainConfig

# What gloo and NCCL say when a process is gone or silent, in plain RuntimeErrors and DistBackendErrors. gloo begins
# with its source file; its `enforce fail`s, and NCCL's errors of CUDA or of usage, are failures of this process.
LOST = re.compile(
    r"^\[\S*gloo/\S+:\d+\].*(connect|timed out|timeout|socket|read error|write error|broken pipe|peer)"
    r"|^gloo connectfullmesh failed"
    r"|failed to pass monitoredbarrier"
    r"|ncclremoteerror|remote process exited|nccl communicator was aborted"
    r"|watchdog caught collective operation timeout"
    r"|ncclsystemerror.*last error:.*(connect|socket|peer)"
    r"|retrieving ncclunique",
    re.DOTALL,
)
JOINED = re.compile(r"(\d+)/\d+ clients joined")  # in what torch's store raises


@contextmanager
def one_line_if_another_ends(fabric: Fabric, advice: str) -> Iterator[None]:
    """Turn what the collectives raise in the `with` when another process is gone into one line.

    Raises:
        WorkFailed: another process has ended or does not answer.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        if fabric.world_size == 1 or not _is_lost_process(error):
            raise
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise WorkFailed(
            f"process {fabric.global_rank} of {fabric.world_size}: another process has ended or does not answer"
            f" ({reason}); check the log of that process, then {advice}"
        ) from None


def _is_lost_process(error: Exception) -> bool:
    """Return whether an error is one of the connection to other processes, and not of a disk or this process."""
    if isinstance(error, OSError):
        return isinstance(error, ConnectionError | TimeoutError) and error.filename is None
    if isinstance(error, torch.distributed.DistStoreError | torch.distributed.DistNetworkError):
        return True
    return LOST.search(str(error).lower()) is not None


def join_processes(fabric: Fabric, timeout: float) -> None:
    """Start or join the other processes.

    Args:
        fabric: the engine.
        timeout: seconds that it waits for them.

    Raises:
        WorkFailed: some do not come.
    """
    try:
        fabric.launch()
    except (RuntimeError, OSError) as error:
        if fabric.world_size == 1 or not _is_lost_process(error):
            raise
        text = str(error)
        found = JOINED.search(text)
        count = f"{found[1]} of {fabric.world_size} processes have" if found else "not all processes have"
        host, port = (os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
        reason = "" if found else f" ({text.splitlines()[0][:160] if text else type(error).__name__})"
        raise WorkFailed(
            f"process {fabric.global_rank} of {fabric.world_size}: {count} joined within {timeout:g} s{reason}; check"
            f" that all were started, with the same numbers of nodes and devices, and reach {host}:{port} (firewall,"
            " MASTER_ADDR, network interface)"
        ) from None


@contextmanager
def evaluation_processes(devices: int, options: LoadOptions) -> Iterator[LoadOptions]:
    """Share an evaluation among processes in the `with`: those of a launcher, or `devices` started here.

    Yields:
        The options with the device of this process.

    Raises:
        UserError: the devices are not there, or contradict the launcher.
        WorkFailed: another process has ended.
    """
    launched = launched_processes()
    if launched is not None and devices not in (1, launched.devices):
        raise UserError(
            f"devices is {devices}, but the launcher started {launched.devices} processes on each node: leave it out"
        )
    nodes, devices = launched or (1, devices)
    if nodes * devices == 1:
        yield options
        return
    device = choose_device(options.device)
    if device.index is not None:
        raise UserError(
            f"device is {options.device}, which is one device for {devices} processes: give cuda, cpu or auto"
        )
    kind = "cuda" if device.type == "cuda" else "cpu"
    config = TrainConfig(accelerator=kind, devices=devices, nodes=nodes, precision="fp32")
    fabric = make_fabric(config)
    join_processes(fabric, config.timeout)
    with one_line_if_another_ends(fabric, "try again"):
        yield replace(options, device=str(fabric.device))


def refuse_several_processes(what: str) -> None:
    """Refuse work that is not shared among processes.

    Raises:
        UserError: a launcher has started several.
    """
    launched = launched_processes()
    if launched is not None and launched.nodes * launched.devices > 1:
        raise UserError(
            f"{what} runs in one process, but the launcher started {launched.nodes * launched.devices}: start it alone"
        )
