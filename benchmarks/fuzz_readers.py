"""Coverage-guided fuzzing (atheris) of every reader of strangers' files.

    python -m benchmarks.fuzz_readers [--executions 1000000] [--targets coco,voc] [--out fuzz]

Proves that images, annotations (COCO, VOC, YOLO, LabelMe, CVAT, Label Studio, CrowdHuman), checkpoints, traces,
configs and edits either are read or end in a UserError: any other exception, an input that takes more than 10 seconds,
or more than 2 GiB of memory is a finding. One process for each target, one after another; prints executions and seconds
of each, keeps the input of each finding in `--out`, and ends with 1 if there are any.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from benchmarks.fuzz_mutators import mutate_bytes

SECONDS = 10  # of one input, more are a hang
MEMORY = 2048  # MiB
LONGEST = 1 << 16  # bytes of an input
STATISTIC = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
PROGRESS = re.compile(r"^#(\d+)\s", re.MULTILINE)
ARTIFACT = re.compile(r"Test unit written to (\S+)")
RESTARTS = 20  # of a target after hangs and exhausted memory


def main() -> int:
    """Fuzz the targets; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--executions", type=int, default=1_000_000, help="of all targets together")
    parser.add_argument("--targets", default="", help="names with commas between; all by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=Path("fuzz"), help="folder of the inputs that were findings"
    )
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.child:
        return fuzz_one(options.child, options.out, rest)
    from benchmarks.fuzz_targets import TARGETS

    names = options.targets.split(",") if options.targets else list(TARGETS)
    whole = sum(TARGETS[name].share for name in names)
    options.out.mkdir(parents=True, exist_ok=True)
    total, began, findings, short = 0, time.perf_counter(), 0, 0
    for name in names:
        runs = max(1, options.executions * TARGETS[name].share // whole)
        started = time.perf_counter()
        executed, found = fuzz_target(name, runs, options.seed, options.out)
        seconds = time.perf_counter() - started
        total, findings, short = total + executed, findings + found, short + (executed < runs)
        print(f"{name:14} {executed:>9,} executions {seconds:7.0f} s {found} findings", flush=True)
    minutes = (time.perf_counter() - began) / 60
    print(f"{'all':14} {total:>9,} executions {minutes:7.1f} min {findings} findings")
    if short:
        print(f"{short} targets ended before their number of executions")
    return 1 if findings or short else 0


def fuzz_target(name: str, runs: int, seed: int, out: Path) -> tuple[int, int]:
    """Fuzz a target in processes of its own until it was run often enough; return executions and findings."""
    executed, before = 0, {*out.glob(f"{name}-*")}
    for attempt in range(RESTARTS):
        if executed >= runs:
            break
        with tempfile.TemporaryDirectory(dir=disk_in_memory()) as folder:
            corpus = Path(folder) / "corpus"
            corpus.mkdir()
            words = [sys.executable, "-m", "benchmarks.fuzz_readers", "--child", name, "--out", str(out)]
            words += [f"-runs={runs - executed}", f"-seed={seed + attempt}", f"-timeout={SECONDS}"]
            words += [
                f"-rss_limit_mb={MEMORY}",
                f"-max_len={LONGEST}",
                "-print_final_stats=1",
                "-verbosity=1",
            ]
            words += [f"-artifact_prefix={out / name}-", str(corpus)]
            done = subprocess.run(
                words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            )
        counts = [int(n) for n in (*STATISTIC.findall(done.stdout), *PROGRESS.findall(done.stdout))]
        executed += max(counts, default=0)
        if done.returncode and not ARTIFACT.search(done.stdout):
            (out / f"{name}-failed.txt").write_text(done.stdout[-20_000:])
            break
    return executed, len({*out.glob(f"{name}-*")} - before)


def fuzz_one(name: str, out: Path, arguments: list[str]) -> int:
    """Fuzz one target in this process; does not return."""
    import atheris

    from benchmarks.fuzz_targets import TARGETS

    target = TARGETS[name]
    with atheris.instrument_imports(include=list(target.instrumented), enable_loader_override=False):
        from detrscope.core.errors import UserError

        quiet()
        corpus = Path(arguments[-1])
        folder = corpus.parent / "inputs"
        folder.mkdir()
        target.prepare(folder)
        for seed in target.seeds():  # so that all modules are imported
            try:
                target.run(seed, folder)
            except UserError:
                continue
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    known: set[tuple[str, ...]] = set()

    def test(data: bytes) -> None:
        try:
            target.run(data, folder)
        except UserError:
            return
        except Exception as error:  # each kind once, so that it does not hide the others
            place = tuple(f"{f.filename}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[-2:])
            if (type(error).__name__, *place) not in known and len(known) < 50:
                known.add((type(error).__name__, *place))
                (out / f"{name}-{len(known)}-{type(error).__name__}").write_bytes(data)
                (out / f"{name}-{len(known)}-{type(error).__name__}.txt").write_text(traceback.format_exc())

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        generator = random.Random(seed)
        changed = target.mutate(data, generator) if generator.random() < 0.75 else None
        return atheris.Mutate(data, max_size) if changed is None else changed[:max_size]

    atheris.Setup([sys.argv[0], *arguments], test, custom_mutator=mutate)
    atheris.Fuzz()
    return 0


def disk_in_memory() -> Path | None:
    """Return the folder of a disk in memory, ten times as fast for small files; None: the usual one."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else None


def quiet() -> None:
    """Log nothing, and keep images small enough for a thousand of them in a second."""
    logging.disable(logging.CRITICAL)
    os.environ["DETRSCOPE_MAX_PIXELS"] = str(1 << 20)
    os.environ["DETRSCOPE_DEFORMABLE"] = "reference"  # numba cannot compile what atheris has instrumented
    import warnings

    warnings.simplefilter("ignore")


def fuzz_shortly(name: str, seconds: float, seed: int = 0) -> int:
    """Run a target on random mutations, without atheris and in this process; return the executions.

    Raises:
        Exception: whatever the reader raised other than a UserError; the input is a note of it.
    """
    from benchmarks.fuzz_targets import TARGETS
    from detrscope.core.errors import UserError

    target, generator, count = TARGETS[name], random.Random(seed), 0
    inputs = target.seeds()
    with tempfile.TemporaryDirectory(dir=disk_in_memory()) as folder:
        target.prepare(Path(folder))
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or count < len(inputs):
            data = inputs[count] if count < len(inputs) else generator.choice(inputs)
            if count >= len(inputs):
                changed = target.mutate(data, generator) if generator.random() < 0.7 else None
                data = mutate_bytes(data, generator) if changed is None else changed
            try:
                target.run(data, Path(folder))
            except UserError:
                pass
            except Exception as error:
                error.add_note(f"input of {name}: {data[:2000]!r}")
                raise
            count += 1
    return count


if __name__ == "__main__":
    sys.exit(main())
