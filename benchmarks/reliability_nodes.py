"""Two machines train together, one is lost in the middle of an epoch, the other stops, and the pair goes on.

Each machine is a torchrun agent: in a network namespace of its own where this process may make one (root on Linux),
joined by a virtual cable; else both on the loopback interface. The second agent and all its processes are ended with
kill -9. Prints the seconds until the first agent has ended and its line, then resumes the pair, and compares it with a
pair that was never interrupted. Exits with 1 where the first agent took a minute or more, gave no clear line, did not
exit with 1, or the resumed pair differs in a bit.

    python -m benchmarks.reliability_nodes
    python -m benchmarks.reliability_nodes --epochs 6
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from benchmarks.reliability_ddp import CASES, SHARED, write_images

LIMIT = 60.0  # seconds
TIMES = ("seconds", "images_per_second", "memory_mb")


@dataclass(frozen=True)
class Node:
    """A machine, or what stands for one."""

    prefix: tuple[str, ...]  # in front of its commands
    address: str
    interface: str


@contextmanager
def two_nodes() -> Iterator[tuple[Node, Node]]:
    """Make two network namespaces joined by a cable; where that is not allowed, use the loopback interface twice."""
    names = [f"detrscope{os.getpid()}{letter}" for letter in "ab"]
    with ExitStack() as stack:
        try:
            for name in names:
                _ip("netns", "add", name)
                stack.callback(_ip, "netns", "del", name)
            _ip(
                "link",
                "add",
                "cableA",
                "netns",
                names[0],
                "type",
                "veth",
                "peer",
                "name",
                "cableB",
                "netns",
                names[1],
            )
            for letter, name, number in zip("AB", names, (1, 2), strict=True):
                _ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", f"cable{letter}")
                _ip("-n", name, "link", "set", f"cable{letter}", "up")
                _ip("-n", name, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError):
            yield Node((), "127.0.0.1", "lo"), Node((), "127.0.0.1", "lo")
            return
        yield tuple(
            Node(("ip", "netns", "exec", name), f"10.77.0.{number}", f"cable{letter}")
            for letter, name, number in zip("AB", names, (1, 2), strict=True)
        )


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Pair:
    """A training by two agents."""

    def __init__(self, nodes: tuple[Node, Node], data: Path, out: Path, epochs: int, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        settings = {**SHARED, **CASES["sprint-dense"], "data.source": f"coco:{data}", "train.epochs": epochs}
        words = [
            f"--{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in settings.items()
        ]
        self.logs = [out.parent / f"{out.name}{rank}.log" for rank in range(2)]
        self.agents = []
        for rank, node in enumerate(nodes):
            command = [
                *node.prefix,
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--nnodes=2",
                "--nproc-per-node=1",
            ]
            command += [f"--node-rank={rank}", f"--master-addr={nodes[0].address}", f"--master-port={port}"]
            command += ["-m", "detrscope", "train", "--out", str(out), *words, *options]
            environment = {**os.environ, "GLOO_SOCKET_IFNAME": node.interface, "OMP_NUM_THREADS": "1"}
            with self.logs[rank].open("w") as log:
                self.agents.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))

    def wait(self) -> list[int]:
        """Return the exit codes."""
        return [agent.wait() for agent in self.agents]

    def processes(self, rank: int) -> list[int]:
        """Return the ids of an agent and of all its processes."""
        found, start = [], [self.agents[rank].pid]
        while start:
            found += start
            listed = subprocess.run(
                ["pgrep", "-P", ",".join(map(str, start))], capture_output=True, text=True
            )
            start = [int(pid) for pid in listed.stdout.split()]
        return found

    def kill(self, rank: int) -> None:
        """End an agent and all its processes with kill -9."""
        for pid in self.processes(rank):
            os.kill(pid, signal.SIGKILL)

    def wait_for_epochs(self, out: Path, count: int) -> None:
        """Wait until so many epochs are trained."""
        metrics = out / "metrics.jsonl"
        while not metrics.exists() or len(metrics.read_text().splitlines()) < count:
            if any(agent.poll() is not None for agent in self.agents):
                raise SystemExit(f"the pair ended early: {self.logs[0].read_text()[-3000:]}")
            time.sleep(0.02)

    def line(self, rank: int) -> str:
        """Return the line in which a process says why it ended."""
        lines = self.logs[rank].read_text().splitlines()
        return next((line for line in lines if line.startswith("detrscope: ")), "")


@dataclass(frozen=True)
class Lost:
    """What happened when a machine was lost."""

    seconds: float
    code: int
    line: str
    same: bool  # the resumed pair ends like one that was never interrupted


def lose_a_node(folder: Path, epochs: int) -> Lost:
    """Train with two nodes, kill one, resume, compare."""
    data, whole, cut = folder / "data", folder / "whole", folder / "cut"
    write_images(data)
    with two_nodes() as nodes:
        print("nodes:", " and ".join(f"{node.address} ({node.interface})" for node in nodes), flush=True)
        if codes := [code for code in Pair(nodes, data, whole, epochs).wait() if code]:
            raise SystemExit(
                f"the uninterrupted pair failed ({codes}): {(folder / 'whole0.log').read_text()[-3000:]}"
            )
        pair = Pair(nodes, data, cut, epochs)
        pair.wait_for_epochs(cut, epochs // 2)
        time.sleep(0.3)
        start = time.monotonic()
        pair.kill(1)
        code = pair.wait()[0]
        seconds, line = time.monotonic() - start, pair.line(0)
        again = Pair(nodes, data, cut, epochs, "--resume")
        if any(again.wait()):
            raise SystemExit(f"the pair does not resume: {again.logs[0].read_text()[-3000:]}")
    return Lost(seconds, code, line, _same(whole, cut))


def _same(one: Path, other: Path) -> bool:
    weights = [load_file(run / "last.safetensors") for run in (one, other)]
    return _rows(one) == _rows(other) and all(weights[0][name].equal(weights[1][name]) for name in weights[0])


def _rows(run: Path) -> list[dict[str, object]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    given = parser.parse_args()
    if shutil.which("pgrep") is None:
        raise SystemExit("pgrep is needed to find an agent's processes")
    with tempfile.TemporaryDirectory() as folder:
        lost = lose_a_node(Path(folder), given.epochs)
    print(f"the other stopped after {lost.seconds:.1f} s with exit code {lost.code}: {lost.line}")
    print(f"resumed, the pair ends {'equal to the bit' if lost.same else 'DIFFERENT'}")
    if lost.seconds >= LIMIT or lost.code != 1 or not lost.line or not lost.same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
