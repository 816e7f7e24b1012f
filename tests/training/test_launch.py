"""Processes, nodes and devices of a training, as settings and launchers give them; no cluster is started."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.strategies import DDPStrategy, ModelParallelStrategy
from lightning.fabric.utilities.rank_zero import rank_zero_only

from detrscope.core.errors import UserError
from detrscope.training import launch
from detrscope.training.config import DataConfig, RunConfig, resolve_training_config
from detrscope.training.launch import launched_processes, make_fabric, resolve_processes
from detrscope.training.train_config import TrainConfig


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = [name for name in os.environ if name.startswith("SLURM_")]
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", *slurm):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments that Fabric is made with."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(launch, "Fabric", lambda **arguments: given.update(arguments))
    return given


def test_nodes_and_devices_per_node_reach_fabric(arguments: dict[str, Any]) -> None:
    make_fabric(TrainConfig(nodes=2, devices=4, accelerator="cpu", precision="bf16"))
    assert (arguments["num_nodes"], arguments["devices"]) == (2, 4)
    assert (arguments["accelerator"], arguments["precision"]) == ("cpu", "bf16-mixed")
    assert isinstance(arguments["strategy"], DDPStrategy)


@pytest.mark.parametrize(("nodes", "devices", "joins"), [(1, 1, False), (1, 2, True), (2, 1, True)])
def test_several_processes_join_by_ddp(
    nodes: int, devices: int, joins: bool, arguments: dict[str, Any]
) -> None:
    make_fabric(TrainConfig(nodes=nodes, devices=devices, accelerator="cpu", precision="fp32"))
    assert isinstance(arguments["strategy"], DDPStrategy) == joins


@pytest.mark.parametrize(
    ("world", "local", "expected"), [("8", "4", (2, 4)), ("2", "2", (1, 2)), ("8", None, (1, 1))]
)
def test_a_launcher_tells_nodes_and_devices(
    world: str, local: str | None, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    if local is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    train = resolve_processes(RunConfig()).train
    assert (train.nodes, train.devices) == expected


def test_srun_tells_nodes_and_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "16")  # of the job, which its batch script has too
    assert launched_processes() is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "16")
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    train = resolve_processes(RunConfig()).train
    assert (train.nodes, train.devices) == (2, 8)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "3")
    with pytest.raises(UserError, match=r"srun has started 3 processes on 2 nodes: .* --ntasks-per-node"):
        resolve_processes(RunConfig())


def _in_slurm(monkeypatch: pytest.MonkeyPatch, tasks: int, name: str) -> None:
    variables = {"JOB_ID": 7, "JOB_NAME": name, "NTASKS": tasks, "STEP_NUM_TASKS": tasks, "STEP_NUM_NODES": 1}
    variables |= {
        "NTASKS_PER_NODE": tasks,
        "NNODES": 1,
        "PROCID": tasks - 1,
        "LOCALID": tasks - 1,
        "NODEID": 0,
    }
    for key, value in variables.items():
        monkeypatch.setenv(f"SLURM_{key}", str(value))
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # Lightning keeps the last strategy's for this process


@pytest.mark.parametrize("name", ["bash", "interactive", "search"])
def test_one_task_of_srun_starts_its_own_processes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`srun --pty bash`, salloc, and a command by `srun --ntasks=1`."""
    _in_slurm(monkeypatch, 1, name)
    train = TrainConfig(devices=2, accelerator="cpu", precision="fp32")
    assert resolve_processes(RunConfig(train=train)).train == train
    strategy = make_fabric(train).strategy
    assert isinstance(strategy, DDPStrategy) and strategy.num_processes == 2
    assert isinstance(strategy.cluster_environment, LightningEnvironment)
    assert not strategy.cluster_environment.creates_processes_externally


@pytest.mark.parametrize("name", ["bash", "interactive", "search"])
def test_tasks_of_srun_join_whatever_the_job_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _in_slurm(monkeypatch, 2, name)
    train = resolve_processes(RunConfig(train=TrainConfig(accelerator="cpu", precision="fp32"))).train
    strategy = make_fabric(train).strategy
    assert isinstance(strategy, DDPStrategy) and isinstance(strategy.cluster_environment, SLURMEnvironment)
    assert (strategy.cluster_environment.global_rank(), strategy.cluster_environment.world_size()) == (1, 2)


@pytest.mark.parametrize("seconds", [1e300, 604_801.0])
def test_a_timeout_that_no_socket_can_wait_is_refused(seconds: float) -> None:
    with pytest.raises(UserError, match=r"train\.timeout is .*: expected 604800 or less"):
        resolve_training_config(None, None, {"train": {"timeout": seconds}})


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (TrainConfig(devices=8), r"train\.devices is 8, but .* 8 processes, 4 on each node: .* set it to 4"),
        (TrainConfig(nodes=4, devices=4), r"train\.nodes is 4, but .* set it to 2"),
    ],
)
def test_settings_that_contradict_the_launcher_are_refused(
    train: TrainConfig, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(UserError, match=message):
        resolve_processes(RunConfig(train=train))


def test_a_login_node_of_slurm_is_no_reason_to_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning warns where srun is there and not used; warnings are errors here."""
    (tmp_path / "srun").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert make_fabric(TrainConfig(accelerator="cpu", precision="fp32")).world_size == 1


def test_fsdp_and_the_timeout_reach_fabric(arguments: dict[str, Any]) -> None:
    make_fabric(TrainConfig(devices=4, accelerator="cpu", precision="fp32", strategy="fsdp", timeout=30))
    strategy = arguments["strategy"]
    assert isinstance(strategy, ModelParallelStrategy)
    assert (strategy._data_parallel_size, strategy._timeout) == (4, timedelta(seconds=30))


def test_the_batch_is_divided_over_all_nodes() -> None:
    train = TrainConfig(nodes=2, devices=4, accumulate=2)
    assert RunConfig(data=DataConfig(batch_size=32), train=train).images_per_micro_batch == 2
    with pytest.raises(UserError, match=r"data\.batch_size is 24: expected a multiple of train\.nodes x"):
        RunConfig(data=DataConfig(batch_size=24), train=train)
