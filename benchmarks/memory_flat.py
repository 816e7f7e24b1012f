"""Memory stays flat: resident memory over 1,000 training steps, 1,000 detections and 1,000 page requests.

python -m benchmarks.memory_flat [--count 1000] [steps] [detections] [requests]

Proves that nothing is kept from one to the next. Each part runs in a process of its own: a warm-up of a fifth, in which
caches, thread pools and the allocator's pools fill, then `--count` more, with resident memory read at ten moments. Ends
with 1 where the mean of the last three readings is more than 24 MiB above the mean of the first three. The least that
could leak, an image of 128 x 128 pixels as floats (0.19 MiB) each time, would add 130 MiB between them over 1,000; what
an allocator keeps of pictures of many sizes moves by some MiB.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import re
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

MOMENTS = 10
GROWTH = 24.0  # MiB
WARM_UP = 5  # part of the count: a fifth

Tick = Callable[[], None]


def resident_mib() -> float:
    """Return the resident memory of this process in MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def steps(count: int, tick: Tick) -> None:
    """Train by the recipe of the drawn dogs, with evaluations, snapshots of probe images and checkpoints."""
    from detrscope.commands.train import train
    from detrscope.training.train_step import TrainStep

    take = TrainStep.step

    def step(*arguments: object) -> object:
        values = take(*arguments)  # type: ignore[arg-type]
        tick()
        return values

    TrainStep.step = step  # type: ignore[method-assign,assignment]
    overrides = {
        "data.batch_size": 4,
        "data.workers": 0,
        "train.epochs": 10_000,
        "train.max_steps": count,
        "train.evaluate_every": 10,
        "train.recording.count": 2,
        "train.recording.every": 50,
        "train.checkpoint_every": 50,
    }
    with tempfile.TemporaryDirectory() as folder:
        source = "drawn-dogs:count=64,val=8,test=2,size=128"
        train(preset="drawn-dogs", data=source, out=Path(folder) / "run", overrides=overrides)


def detections(count: int, tick: Tick) -> None:
    """Detect in pictures of twenty sizes, with a trace and an edited detection now and then."""
    import numpy as np

    import detrscope as ds

    detector = ds.load("sprint-dense-n", device="cpu")
    muted = detector.edited(["decoder.*.cross: heads 1 x0"])
    generator = np.random.default_rng(0)
    # Few sizes: for each new one oneDNN compiles and keeps kernels, up to a limit of its own (1,024).
    sizes = generator.integers(40, 400, (20, 2)).tolist()
    for number in range(count):
        height, width = sizes[number % len(sizes)]
        picture = generator.integers(0, 256, (height, width, 3), np.uint8)
        detector.detect(picture, threshold=0.1)
        if number % 20 == 0:
            muted.detect(picture, threshold=0.1)
            detector.trace(picture).cross_attention(0).on_image()
        tick()


def requests(count: int, tick: Tick) -> None:
    """Ask the live page as its fuzzer does: pictures whole and damaged, edits, forms, and what is none of these."""
    import logging

    from PIL import Image
    from starlette.testclient import TestClient

    from benchmarks.fuzzed_requests import random_request
    from benchmarks.page_fuzz import TOKEN
    from detrscope.commands.explore import explore

    logging.getLogger("detrscope.explorer").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.png"
        Image.effect_noise((64, 48), 60).convert("RGB").save(photo)
        explorer = explore([str(photo)], model="sprint-dense-n", port=0)
        generator = random.Random(0)
        with TestClient(explorer.app, base_url=explorer.url) as client:
            token = TOKEN.search(client.get("/").text)[1]  # type: ignore[index]
            for _ in range(count):
                client.request(**random_request(generator, token, [str(photo)]).arguments())
                tick()


PARTS: dict[str, Callable[[int, Tick], None]] = {
    "steps": steps,
    "detections": detections,
    "requests": requests,
}


def measure(name: str, count: int) -> list[float]:
    """Return resident memory at ten moments after the warm-up of a part, which runs in a new process."""
    context = multiprocessing.get_context("spawn")
    receives, sends = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(name, count, sends))
    process.start()
    sends.close()
    try:
        return list(receives.recv())
    except EOFError:
        raise SystemExit(f"{name}: the process ended early") from None
    finally:
        process.join()


def _run(name: str, count: int, sends: Connection) -> None:
    values: list[float] = []
    warm, seen = count // WARM_UP, 0

    def tick() -> None:
        nonlocal seen
        seen += 1
        if seen > warm and (seen - warm) % max(1, count // MOMENTS) == 0:
            values.append(resident_mib())

    PARTS[name](count + warm, tick)
    sends.send(values)


def growth(values: list[float]) -> float:
    """Return the mean of the last three readings less that of the first three."""
    return sum(values[-3:]) / 3 - sum(values[:3]) / 3


def main() -> int:
    """Measure the parts; return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    failed = False
    print(f"{'part':12}{'count':>7}{'growth':>9}  resident memory, MiB")
    for name in options.parts or PARTS:
        values = measure(name, options.count)
        failed |= growth(values) > GROWTH
        shown = " ".join(f"{value:.0f}" for value in values)
        print(f"{name:12}{options.count:7}{growth(values):+9.1f}  {shown}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
