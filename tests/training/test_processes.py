"""Two processes, joined by torchrun and gloo, take the steps of one; errors of others' ends are told from own ones."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from benchmarks import reliability_ddp

from detrscope.commands.processes import join_processes, one_line_if_another_ends
from detrscope.core.errors import WorkFailed

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/"
NCCL = "NCCL error in: torch/csrc/distributed/c10d/NCCLUtils.hpp:94, "
FABRIC: Any = SimpleNamespace(world_size=2, global_rank=0)

LOST = [
    RuntimeError(
        f"{GLOO}pair.cc:561] Connection closed by peer [127.0.0.1]:44942. This is typically caused by"
    ),
    RuntimeError(f"{GLOO}unbound_buffer.cc:78] Timed out waiting 3000ms for recv operation to complete"),
    RuntimeError(f"{GLOO}pair.cc:608] Read error [10.0.0.2]:7: Connection reset by peer"),
    RuntimeError("Gloo connectFullMesh failed with [../gloo/transport/tcp/pair.cc:144] no error"),
    torch.distributed.DistBackendError(
        f"{NCCL}remote process exited or there was a network error, NCCL version 2.27.3\nncclRemoteError: A call"
    ),
    torch.distributed.DistBackendError(
        f"{NCCL}unhandled system error\nncclSystemError: System call (e.g. socket, malloc) or external library call"
        " failed\nLast error:\nsocketPollConnect: Connect to 10.0.0.2<7> failed: Connection refused"
    ),
    torch.distributed.DistNetworkError("failed to recv, got 0 bytes"),
    torch.distributed.DistStoreError("wait timeout after 5000ms, keys: /default_pg/0//cuda//0"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    TimeoutError("timed out"),
]
OWN = [
    OSError(errno.ENOSPC, "No space left on device", "/runs/timeout-60/last.pt"),
    OSError(errno.EIO, "Input/output error", "/data/socket/gloo/nccl.jpg"),
    TimeoutError(errno.ETIMEDOUT, "Connection timed out", "/nfs/data/1.jpg"),
    RuntimeError("DataLoader timed out after 30 seconds"),
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
    RuntimeError("CUDA error: the launch timed out and was terminated"),
    RuntimeError("unable to open shared memory object </torch_7>: a connection of gloo"),
    RuntimeError(f"[enforce fail at {GLOO[1:]}pair.cc:446] op.preamble.length <= op.nbytes. 8 vs 4"),
    RuntimeError("ProcessGroupGloo::allreduce: invalid tensor type"),
    torch.distributed.DistBackendError(
        f"{NCCL}invalid usage, NCCL version 2.27.3\nncclInvalidUsage: This usually reflects invalid usage of NCCL"
        "\nLast error:\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000"
    ),
    torch.distributed.DistBackendError(
        f"{NCCL}unhandled system error\nncclSystemError: System call (e.g. socket, malloc) or external library call"
        " failed\nLast error:\nError while creating shared memory segment /dev/shm/nccl-7: No space left on device"
    ),
]


@pytest.mark.parametrize("error", LOST, ids=str)
def test_errors_of_the_connection_are_one_line(error: Exception) -> None:
    with (
        pytest.raises(WorkFailed, match=r"process 0 of 2: another process has ended .*, then try again"),
        one_line_if_another_ends(FABRIC, "try again"),
    ):
        raise error


@pytest.mark.parametrize("error", OWN, ids=str)
def test_errors_of_this_process_keep_their_names(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, one_line_if_another_ends(FABRIC, "try again"):
        raise error
    assert raised.value is error


class _Launch(SimpleNamespace):
    def launch(self) -> None:
        raise self.error


def test_launching_keeps_errors_that_are_its_own() -> None:
    fabric: Any = _Launch(world_size=2, global_rank=1, error=RuntimeError("CUDA error: out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        join_processes(fabric, 3)
    fabric.error = torch.distributed.DistNetworkError("The client socket has timed out after 3000ms")
    with pytest.raises(WorkFailed, match=r"process 1 of 2: not all processes have joined .*client socket"):
        join_processes(fabric, 3)


def test_a_machine_that_never_joins_is_one_line(tmp_path: Path) -> None:
    reliability_ddp.write_images(tmp_path / "data")
    command = [sys.executable, "-m", "detrscope", "train", "--data", f"coco:{tmp_path}/data"]
    command += [
        "--out",
        str(tmp_path / "run"),
        "--train.nodes=2",
        "--train.timeout=3",
        "--train.accelerator=cpu",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    lines = [line for line in done.stderr.splitlines() if line.startswith("detrscope: ")]
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert len(lines) == 1 and "1 of 2 processes have joined within 3 s; check that" in lines[0], done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", ["detr, accumulated", "sprint-dense"])
def test_two_processes_take_the_steps_of_one(case: str, tmp_path: Path) -> None:
    """Images without boxes on one process, a last step without an image for one, denoising, norms that learn."""
    reliability_ddp.write_images(tmp_path / "data")
    losses, weights = reliability_ddp.differences(case, f"coco:{tmp_path}/data", 6, tmp_path, "float64")
    assert losses < 1e-10 and weights < 1e-10
