"""Run the benchmarks and rewrite their tables in docs/benchmarks.md, between markers; the prose around them stays.

python -m benchmarks.all --clone DIR [--only inference,startup] [--avx2] [--docs FILE]

Each table names its command and what it ran on. With --avx2 they run as on a machine without AVX-512 and go to tables
of their own. Nothing else should be running.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detrscope.core.files import atomic_write

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks.md"
HEADING = "## Tables of `python -m benchmarks.all`"
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
COLUMNS = "120"  # width of the tables
MACHINE = "torch's kernels"  # in every line on what ran
CLONE = "DIR"  # stands for the clone of the published code in commands


@dataclass(frozen=True)
class Run:
    """One benchmark: its name in the markers and its command, with `DIR` for the clone of the published code."""

    name: str
    command: str

    @property
    def needs_clone(self) -> bool:
        """Whether the other side is the published code."""
        return CLONE in self.command.split()


def _ours(name: str, *options: str) -> Run:
    return Run(name, " ".join(["python -W ignore -m", f"benchmarks.{name}", *options]))


def _benchmark(name: str, options: str) -> Run:
    return Run(name, f"detrscope benchmark --quiet --weights random {options}")


RUNS = (
    _ours("parity_published", "--clone", CLONE),
    _ours("losses_published", "--clone", CLONE),
    _ours("inference", "--clone", CLONE),
    _ours("engines", "--clone", CLONE, "--int8"),
    _ours("training_step", "--clone", CLONE),
    _ours("matching", "--clone", CLONE),
    _ours("startup"),
    _ours("video"),
    _ours("trace"),
    _ours("deformable_kernel"),
    _ours("deformable"),
    _benchmark(
        "engines-detr",
        "--model detr-r50 --engine torch,onnx,openvino --precision fp32,bf16 --size 800x1066 "
        "--against transformers,fasterrcnn --out benchmark/engines-detr",
    ),
    _benchmark(
        "engines-deformable",
        "--model deformable-detr-r50 --engine torch,onnx,openvino --precision fp32,bf16 --size 800x1066 "
        "--against transformers --out benchmark/engines-deformable",
    ),
    _benchmark(
        "growth-size",
        "--model detr-r50 --engine torch --precision fp32 --size 400x533,600x800,800x1066,1200x1600 "
        "--against transformers --rounds 5 --out benchmark/growth-size",
    ),
    _benchmark(
        "growth-queries",
        "--model deformable-detr-r50 --engine torch --precision fp32 --size 480x640 --queries 100,300,900 "
        "--rounds 5 --out benchmark/growth-queries",
    ),
    _benchmark(
        "growth-batch",
        "--model detr-r50 --engine torch --precision fp32 --size 480x640 --batch 1,2,4,8 --rounds 5 "
        "--out benchmark/growth-batch",
    ),
)


def replace_block(text: str, name: str, content: str) -> str:
    """Return a page with the block of a name replaced, or added at the end where it has none."""
    begin, end = (
        f"<!-- benchmark {name}: begin, written by benchmarks/all.py -->",
        f"<!-- benchmark {name}: end -->",
    )
    block = f"{begin}\n{content}\n{end}"
    pattern = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
    if pattern.search(text):
        return pattern.sub(lambda _: block, text, count=1)
    head = text.rstrip() + ("" if HEADING in text else f"\n\n{HEADING}")
    return f"{head}\n\n{block}\n"


def describe_machine_in(environment: dict[str, str]) -> str:
    """Return the line that names the instruction set, under these environment variables."""
    code = "from detrscope.inference.latency import describe_machine; print(describe_machine())"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def run_block(run: Run, clone: str, environment: dict[str, str]) -> str:
    """Run a benchmark and return its output as a block of Markdown that names the command.

    Raises:
        RuntimeError: it failed; with the last line of its errors.
    """
    variables = [f"{name}={value}" for name, value in environment.items()]
    words = [clone if word == CLONE else word for word in shlex.split(run.command)]
    if words[0] == "python":
        words[0] = sys.executable
    else:  # the command of this environment
        words[:1] = [sys.executable, "-W", "ignore", "-m", words[0]]
    done = subprocess.run(
        words,
        env={**os.environ, **environment, "COLUMNS": COLUMNS},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(lines[-1])
    shown = " ".join([*variables, run.command])
    output = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
    if MACHINE not in output:  # those that compare numbers, not times
        output = f"{describe_machine_in(environment)}\n{output}"
    return f"```\n$ {shown}\n{output}\n```"


def main(arguments: Sequence[str] | None = None, runs: Sequence[Run] = RUNS) -> int:
    """Run the chosen benchmarks; return 1 where one failed, whose table stays as it was."""
    names = [run.name for run in runs]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clone", default="", help="a clone of github.com/facebookresearch/detr")
    parser.add_argument("--only", default="", help=f"names, such as inference,startup; of {', '.join(names)}")
    parser.add_argument("--avx2", action="store_true", help="as on a machine without AVX-512")
    parser.add_argument("--docs", type=Path, default=DOCS, help="page to rewrite")
    options = parser.parse_args(arguments)
    chosen = [name for name in options.only.split(",") if name] or names
    if unknown := sorted(set(chosen) - set(names)):
        parser.error(f"--only {unknown[0]}: expected names of {', '.join(names)}")
    failed = 0
    for run in runs:
        if run.name not in chosen:
            continue
        if run.needs_clone and not options.clone:
            print(f"{run.name}: left out; it needs --clone DIR", file=sys.stderr)
            continue
        print(f"{run.name}: {run.command}", file=sys.stderr, flush=True)
        try:
            block = run_block(run, options.clone, AVX2 if options.avx2 else {})
        except RuntimeError as error:
            failed += 1
            print(f"{run.name}: failed ({error}); its table stays as it was", file=sys.stderr)
            continue
        name = f"{run.name} avx2" if options.avx2 else run.name
        page = replace_block(options.docs.read_text(encoding="utf-8"), name, block)
        with atomic_write(options.docs) as temporary:  # after each one: they take hours together
            temporary.write_text(page, encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
