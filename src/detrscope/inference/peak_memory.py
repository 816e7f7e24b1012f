"""Peak memory of one side of a benchmark, in a process of its own: a peak cannot be reset within one.

`python -m detrscope.inference.peak_memory` reads a request as JSON from standard input and writes the answer as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch

from detrscope.core.errors import UserError, WorkFailed, in_one_line
from detrscope.core.model_card import ModelCard
from detrscope.inference.benchmark_sides import BenchmarkSide, made_up_images

MEBI = 2**20
FORWARDS = 2  # the first one lays out weights
TIMEOUT = 1800  # seconds


class PeakMemory(NamedTuple):
    """Memory of a process, or of the GPU that it uses, in MiB."""

    peak: float  # of loading a model and predicting
    start: float  # before the model is loaded: libraries; 0 for a GPU


def measure_peak_memory(
    side: BenchmarkSide, card: ModelCard, height: int, width: int, batch: int
) -> PeakMemory:
    """Load a model and predict twice in a new process; return its memory.

    Raises:
        WorkFailed: the process could not do it; says why.
    """
    request = {
        "side": asdict(side),
        "card": card.to_json(),
        "shape": [height, width, batch],
        "threads": torch.get_num_threads(),
    }
    command = [sys.executable, "-W", "ignore", "-m", "detrscope.inference.peak_memory"]
    try:
        run = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise WorkFailed(f"memory: not measured in {TIMEOUT} s") from None
    if run.returncode:
        lines = run.stderr.strip().splitlines() or [f"exit code {run.returncode}"]
        raise WorkFailed(f"memory: {lines[-1][:200]}")
    return PeakMemory(*json.loads(run.stdout.splitlines()[-1]))


def main() -> None:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    side, card = BenchmarkSide(**request["side"]), ModelCard.from_json(request["card"])
    images = made_up_images(*request["shape"])
    start = _resident_peak()
    opened = side.open(card)
    for _ in range(FORWARDS):
        opened.predict(images)
    if opened.device.startswith("cuda"):
        print(json.dumps([torch.cuda.max_memory_allocated(opened.device) / MEBI, 0.0]))
    else:
        print(json.dumps([_resident_peak(), start]))


def _resident_peak() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    # On Linux `ru_maxrss` would count the parent of this process too, whose memory it shared until it started.
    try:
        import resource
    except ImportError:
        raise UserError("this system does not tell the peak memory of a process") from None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MEBI if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        described = in_one_line(error)
        line = described[0] if described else (str(error).strip().splitlines() or [type(error).__name__])[0]
        sys.exit(line)
