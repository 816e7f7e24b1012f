"""Two machines, or what stands for them: one is lost, one hangs, one meets an image that cannot be read."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import reliability_nodes
from benchmarks.reliability_ddp import write_images

pytestmark = pytest.mark.skipif(
    shutil.which("pgrep") is None, reason="pgrep, which finds an agent's processes, is missing"
)


def test_a_lost_machine_ends_the_other_and_the_pair_resumes(tmp_path: Path) -> None:
    lost = reliability_nodes.lose_a_node(tmp_path, epochs=4)
    assert lost.seconds < reliability_nodes.LIMIT and lost.code == 1 and lost.same
    assert (
        "another process has ended or does not answer" in lost.line and "continue with --resume" in lost.line
    )


def test_a_process_that_hangs_is_taken_for_lost(tmp_path: Path) -> None:
    write_images(tmp_path / "data")
    with reliability_nodes.two_nodes() as nodes:
        pair = reliability_nodes.Pair(nodes, tmp_path / "data", tmp_path / "run", 500, "--train.timeout=5")
        pair.wait_for_epochs(tmp_path / "run", 1)
        stopped = pair.processes(1)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        assert pair.agents[0].wait(timeout=60) == 1
        assert "does not answer" in pair.line(0)
        pair.kill(1)
        pair.wait()


def test_an_unreadable_image_ends_all_processes_in_one_line_each(tmp_path: Path) -> None:
    write_images(tmp_path / "data")
    content = json.loads((tmp_path / "data" / "annotations.json").read_text())
    spoiled = tmp_path / "data" / "images" / content["images"][5]["file_name"]
    whole = spoiled.read_bytes()
    spoiled.write_bytes(whole[: len(whole) // 2])
    words = [
        f"--{key}={'null' if value is None else value}"
        for key, value in {**reliability_nodes.SHARED, "model.variant": "sprint-dense-n"}.items()
    ]
    command = [
        sys.executable,
        "-m",
        "detrscope",
        "train",
        "--train.devices=2",
        f"--data.source=coco:{tmp_path}/data",
    ]
    done = subprocess.run(
        [*command, *words, "--out", str(tmp_path / "run"), "--quiet"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("detrscope: ")]
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    assert any(spoiled.name in line for line in lines)
    assert all(spoiled.name in line or "another process has ended" in line for line in lines)
