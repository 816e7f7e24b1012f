"""The worked changes of CONTRIBUTING.md apply to this source, and their tests pass."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

DIFFS = re.findall(r"^```diff\n(.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL)
LONGEST = 60  # changed lines


def test_each_worked_change_is_short() -> None:
    lengths = [len(re.findall(r"^[+-](?![+-]{2} )", diff, re.MULTILINE)) for diff in DIFFS]
    assert len(DIFFS) == 4 and max(lengths) < LONGEST, lengths


def test_worked_changes_apply_and_pass_their_tests(tmp_path: Path) -> None:
    for folder in ("src", "tests", "benchmarks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for diff in DIFFS:
        applied = subprocess.run(
            ["git", "apply", "--unidiff-zero", "-"],
            input=diff,
            text=True,
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        assert applied.returncode == 0, applied.stderr
    new_tests = re.findall(r"^\+\+\+ b/(tests/\S+)$", "".join(DIFFS), re.MULTILINE)
    conformance = ["tests/families/test_conformance.py", "tests/views/test_views.py"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-n",
        "0",
        "-k",
        "pyramid or peaks or centres or compiled",
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    result = subprocess.run(
        [*command, *new_tests, *conformance],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:]
