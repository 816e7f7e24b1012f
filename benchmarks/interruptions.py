"""Interrupt a training run in every way, and compare where it ends with a run that nothing interrupted.

python -m benchmarks.interruptions [--kills 100] [--seed 0] [--only kills,disk,...]

kills     kill -9 at random moments, of the process and its loader's workers; each run is resumed until it ends.
disk      the disk is full from some moment on (a small file system in memory; needs root): exit code 1, then more room.
readonly  the folder becomes read-only in the middle (immutable; needs root): exit code 2, then it is writable again.
damage    one byte of the last checkpoint is flipped, or its file is cut short.
twice     a second training starts in the folder of the first: it is refused, and the first goes on.
clock     the system's clock jumps by up to a day, back and forth, between any two calls.
finished  a finished run is resumed: exit code 0, and no file but the log changes.

A run ends equal when weights, optimizer, average, random numbers, metrics (but for times and memory), attention and
snapshots are the same to the bit. The table counts what was equal; the exit code is 1 where anything was not.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.run_contents import contents, differences

SPACE = 60  # MB of the file system that is too small: a state is 22 MB, and two are kept while one is written
CLOCK = """
import random, time
_true, _generator = time.time, random.Random(0)
time.time = lambda: _true() + _generator.uniform(-86400, 86400)
time.time_ns = lambda: int(time.time() * 1e9)
"""  # a sitecustomize.py: every process of the run starts with it
CONFIGURATIONS = {
    "dense, bf16, no workers": ["--preset", "drawn-dogs", "--train.precision=bf16"],
    "deformable, fp32, two workers, accumulation": [
        *("--preset", "drawn-dogs-deformable", "--train.precision=fp32", "--data.workers=2"),
        *("--data.cache=false", "--train.accumulate=2", "--augment.crop=0.5"),
    ],
}
SETTINGS = [
    *("--data.short_side=96", "--data.long_side=96", "--data.batch_size=8", "--train.epochs=3"),
    *(
        "--train.max_steps=24",
        "--train.checkpoint_every=1",
        "--train.evaluate_every=1",
        "--train.ema.decay=0.9",
    ),
    *("--train.recording.every=4", "--train.recording.count=2", "--train.recording.traces=8"),
]


def draw(folder: Path) -> list[str]:
    """Draw the images of the runs; return the options that name them."""
    for split, count, seed in (("train", 64, 3), ("val", 16, 4)):
        words = ["data", "draw", "--count", count, "--seed", seed, "--size", 96, "--out", folder / split]
        subprocess.run([sys.executable, "-m", "detrscope", *map(str, words), "--quiet"], check=True)
    train, val = (folder / split / "annotations.json" for split in ("train", "val"))
    return ["--data", str(train), f"--data.val_source={val}", "--probe-images", str(val)]


class Training:
    """A training command and its folder."""

    def __init__(self, words: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
        self.words, self.folder = words, folder
        self.environment = os.environ | (environment or {})

    def start(self) -> subprocess.Popen[str]:
        """Start the run, or go on with it, in a process group of its own."""
        exists = (self.folder / "config.yaml").exists()
        words = [
            "train",
            *self.words,
            "--out",
            str(self.folder),
            "--quiet",
            *(["--resume"] if exists else []),
        ]
        return subprocess.Popen(
            [sys.executable, "-m", "detrscope", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            start_new_session=True,
        )

    def finish(self) -> tuple[int, str]:
        """Go on to the end; return the exit code and what was printed as an error."""
        process = self.start()
        _, errors = process.communicate()
        return process.returncode, errors


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """Mount a file system in memory, in the `with`."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}M", "none", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def remount(disk: Path, options: str) -> None:
    """Change the options of a mounted file system."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process group: the training and the workers of its loader."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def wait_for(path: Path) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + 300
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} was not written")
        time.sleep(0.05)


def kills(words: list[str], folder: Path, duration: float, count: int, generator: random.Random) -> int:
    """Kill a run at up to `count` random moments, then let it end; return how often it was killed."""
    training, killed = Training(words, folder), 0
    while killed < count:
        process = training.start()
        try:
            process.wait(generator.uniform(0.1, 1.0) * duration)
        except subprocess.TimeoutExpired:
            kill(process)
            killed += 1
            continue
        process.communicate()
        return killed  # the run has ended before its next kill
    code, errors = training.finish()
    if code:
        raise RuntimeError(f"a killed run could not be resumed: {errors}")
    return killed


def full_disk(words: list[str], folder: Path) -> list[str]:
    """Let the disk be full; return what was not as promised."""
    with small_disk(SPACE) as disk:
        training = Training(words, disk / "run")
        code, errors = training.finish()
        problems = _expect(code, errors, 1, "No space left")
        remount(disk, f"size={10 * SPACE}M")
        code, errors = training.finish()
        shutil.copytree(disk / "run", folder)
        return problems + _expect(code, errors, 0, "")


def read_only(words: list[str], folder: Path, duration: float) -> list[str]:
    """Take away the right to write to the folder in the middle; return what was not as promised."""
    training = Training(words, folder)
    process = training.start()
    wait_for(folder / "last.pt")
    time.sleep(0.2 * duration)
    subprocess.run(["chattr", "+i", str(folder)], check=True)  # permissions do not hold for root; this does
    try:
        _, errors = process.communicate()
    finally:
        subprocess.run(["chattr", "-i", str(folder)], check=True)
    problems = _expect(process.returncode, errors, 2, "Operation not permitted")
    return problems + _expect(*training.finish(), 0, "")


def damaged(words: list[str], folder: Path, duration: float, generator: random.Random) -> list[str]:
    """Damage the last checkpoint of a killed run; return what was not as promised."""
    training, state = Training(words, folder), folder / "last.pt"
    while not (folder / "previous.pt").exists():
        process = training.start()
        try:
            process.wait(generator.uniform(0.5, 1.0) * duration)
        except subprocess.TimeoutExpired:
            kill(process)
    content = bytearray(state.read_bytes())
    if generator.random() < 0.5:
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    else:
        del content[generator.randrange(len(content)) :]
    state.write_bytes(content)
    return _expect(*training.finish(), 0, "")


def twice(words: list[str], folder: Path) -> list[str]:
    """Start a second training in the folder of the first; return what was not as promised."""
    first = Training(words, folder).start()
    wait_for(folder / "last.pt")
    problems = _expect(*Training(words, folder).finish(), 2, "another training")
    _, errors = first.communicate()
    return problems + _expect(first.returncode, errors, 0, "")


def jumping_clock(words: list[str], folder: Path) -> list[str]:
    """Train while the clock jumps; return what was not as promised."""
    with tempfile.TemporaryDirectory() as site:
        (Path(site) / "sitecustomize.py").write_text(CLOCK)
        path = os.pathsep.join(filter(None, [site, os.environ.get("PYTHONPATH", "")]))
        return _expect(*Training(words, folder, {"PYTHONPATH": path}).finish(), 0, "")


def finished(words: list[str], folder: Path) -> list[str]:
    """Resume a finished run; return what was not as promised."""
    before = {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "log.txt"
    }
    problems = _expect(*Training(words, folder).finish(), 0, "")
    after = {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "log.txt"
    }
    return problems + [f"{path.name} has changed" for path in before if before[path] != after.get(path)]


def _expect(code: int, errors: str, expected: int, part: str) -> list[str]:
    """Return what is not as promised: the exit code, one line of error with some words, no traceback."""
    problems = [] if code == expected else [f"exit code {code} instead of {expected}: {errors[-300:]}"]
    if "Traceback" in errors or (part and part not in errors):
        problems.append(f"instead of '{part}': {errors[-300:]}")
    return problems


def main() -> int:
    """Interrupt runs of every configuration; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="kills,disk,readonly,damage,twice,clock,finished")
    options = parser.parse_args()
    only, generator, wrong = options.only.split(","), random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = draw(folder)
        for number, (configuration, chosen) in enumerate(CONFIGURATIONS.items()):
            words = [*chosen, *images, *SETTINGS]
            started = time.monotonic()
            reference = folder / f"reference-{number}"
            problems = _expect(*Training(words, reference).finish(), 0, "")
            duration, expected = time.monotonic() - started, contents(reference)
            print(f"{configuration}: {duration:.0f} s uninterrupted {' '.join(problems)}", flush=True)

            def check(
                title: str, run: Path, problems: list[str], expected: dict[str, Any] = expected
            ) -> None:
                nonlocal wrong
                problems = problems + [f"{name} differs" for name in differences(run, expected)[:5]]
                wrong += bool(problems)
                print(f"  {title}: {'; '.join(problems) or 'equal to the bit'}", flush=True)
                shutil.rmtree(run)

            left, runs = options.kills // len(CONFIGURATIONS) if "kills" in only else 0, 0
            while left > 0:
                runs += 1
                run = folder / f"killed-{number}-{runs}"
                killed = kills(words, run, duration, min(left, generator.randint(1, 6)), generator)
                left -= killed
                check(f"run {runs}, killed {killed} times, {left} kills left", run, [])
            harms: dict[str, Callable[[Path], list[str]]] = {
                "disk": lambda run, words=words: full_disk(words, run),  # type: ignore[misc]
                "readonly": lambda run, words=words, s=duration: read_only(words, run, s),  # type: ignore[misc]
                "damage": lambda run, words=words, s=duration: damaged(words, run, s, generator),  # type: ignore[misc]
                "twice": lambda run, words=words: twice(words, run),  # type: ignore[misc]
                "clock": lambda run, words=words: jumping_clock(words, run),  # type: ignore[misc]
            }
            for harm, harmed in harms.items():
                if harm in only:
                    run = folder / f"{harm}-{number}"
                    check(harm, run, harmed(run))
            if "finished" in only:
                check("finished", reference, finished(words, reference))
    print(f"{wrong} runs were not equal to the uninterrupted one")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
