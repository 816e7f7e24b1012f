"""Inference and training with freed memory kept in the process, and given back to the system, in turns.

python -m benchmarks.kept_memory [--rounds 3] [--what infer:dfine-n:640,train:detr-r18:512]

The allocator's setting holds for a whole process, so each figure is the median of some calls in a process of its own
(`DETRSCOPE_KEEP_MEMORY=0` or not), float32, random weights. Peak memory is that of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.ratio import machine
from detrscope.inference.latency import Ratio, time_in_turns
from detrscope.ops.kernels.freed_memory import SWITCH

WHAT = "infer:dfine-n:640,infer:rfdetr-nano:384,infer:rtdetr-r18:640,train:sprint-deformable-n:128,train:detr-r18:512"
CALLS = {"infer": 12, "train": 6}
WARM_UP = 3
SMALL = 300  # pixels: below, a step takes 16 images rather than 2


def measure(what: str) -> None:
    """Print the median seconds of one kind of call in this process and its peak memory in MiB, as JSON."""
    import torch

    from benchmarks.training_step import made_up_targets, our_step
    from detrscope.families import build
    from detrscope.inference.torch_engine import TorchEngine
    from detrscope.ops.kernels.freed_memory import keep_freed_memory

    kind, variant, size = what.split(":")
    side = int(size)
    torch.manual_seed(0)
    keep_freed_memory()
    if kind == "infer":
        engine = TorchEngine.optimised(build(variant, {}, 91).eval(), torch.device("cpu"), torch.float32)
        images = torch.rand(1, 3, side, side)

        def call() -> object:
            return engine.predict(images)
    else:
        count = 16 if side < SMALL else 2
        call = our_step(torch.randn(count, 3, side, side), made_up_targets(count), "fp32", variant)
    seconds = time_in_turns({what: call}, rounds=CALLS[kind], warm_up=WARM_UP)[what]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": median(seconds), "peak": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--what", default=WHAT, help="KIND:VARIANT:PIXELS, separated by commas")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.one)
        return
    print(machine())
    table = Table(
        "what", "given back, s", "kept, s", "kept / given back (min-max)", "peak MiB, given back / kept"
    )
    for what in options.what.split(","):
        found: dict[str, list[dict[str, float]]] = {"0": [], "1": []}
        for _ in range(options.rounds):
            for switch, results in found.items():
                command = [sys.executable, "-W", "ignore", "-m", "benchmarks.kept_memory", "--one", what]
                environment = {**os.environ, SWITCH: switch}
                done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
                results.append(json.loads(done.stdout))
        given_back, kept = ([result["seconds"] for result in results] for results in found.values())
        ratio = Ratio.of(kept, given_back)
        peaks = [max(result["peak"] for result in results) for results in found.values()]
        table.add_row(
            what,
            f"{median(given_back):.3g}",
            f"{median(kept):.3g}",
            f"{ratio.median:.2f} ({ratio.min:.2f}-{ratio.max:.2f})",
            " / ".join(f"{peak:.0f}" for peak in peaks),
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
