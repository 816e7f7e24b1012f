"""ARCHITECTURE.md and the habits of CONTRIBUTING.md, checked against the code."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

LONGEST = 300  # lines of a file of the package; kernels are exempt
PAGES = ("ARCHITECTURE.md", "CONTRIBUTING.md", "README.md")
PATHS = re.compile(r"`([\w.-]+(?:/[\w.-]+)+\.(?:py|md|yaml))`")


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Yield module and name of every `from module import name`, and module alone of every `import module`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def test_picture_of_the_rooms_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "rooms"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    names = PATHS.findall((ROOT / page).read_text())
    missing = [n for n in names if not (ROOT / n).exists() and not (ROOT / "src/detrscope" / n).exists()]
    assert not missing, f"{page} names {missing}"


def test_files_of_the_package_are_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / "src").rglob("*.py")}
    long = {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > LONGEST}
    assert not {path: n for path, n in long.items() if "/kernels/" not in path}


def test_tests_share_code_in_one_place() -> None:
    """No test module imports another test module, or a private name of the package."""
    wrong = []
    for path in (ROOT / "tests").rglob("*.py"):
        for module, name in imports(path):
            other_test = module.startswith("tests.") and any(
                part.startswith("test_") for part in (*module.split("."), name)
            )
            private = module.startswith("detrscope") and name.startswith("_") and name != "__version__"
            if other_test or private:
                wrong.append(f"{path.relative_to(ROOT)}: {module} {name}")
    assert not wrong


def test_benchmarks_import_no_tests() -> None:
    for path in (ROOT / "benchmarks").glob("*.py"):
        assert not any(module.split(".")[0] == "tests" for module, _ in imports(path)), path


@pytest.mark.parametrize(
    ("script", "failing"), [("scripts/check", "ruff"), ("scripts/check", "mypy"), (".ci/run", "pip")]
)
def test_scripts_stop_at_the_first_failing_step(script: str, failing: str, tmp_path: Path) -> None:
    """Run a script with stand-ins for its tools, of which one fails: nothing runs after it, and the script fails."""
    calls = tmp_path / "calls"
    (tmp_path / "bin").mkdir()
    for tool in ("ruff", "mypy", "pytest", "pip", "python3"):
        stub = tmp_path / "bin" / tool
        stub.write_text(f"#!/bin/sh\necho {tool} >> {calls}\nexit {int(tool == failing)}\n")
        stub.chmod(0o755)
    # .ci/run sources the environment that `python3 -m venv` makes: here an empty file in the same place.
    activate = 'mkdir -p "$3/bin"; : > "$3/bin/activate"'
    (tmp_path / "bin" / "python3").write_text(f"#!/bin/sh\necho python3 >> {calls}\n{activate}\n")
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    result = subprocess.run([str(ROOT / script)], env=environment, capture_output=True, check=False)
    assert result.returncode != 0
    assert calls.read_text().split()[-1] == failing


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of every message that a file raises or logs."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("UserError", "WorkFailed", "debug", "info", "warning", "error"):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.lineno, part.value


def test_messages_below_the_command_line_name_arguments() -> None:
    """They name no options, which a reader in Python does not have; `cli` writes arguments as options."""
    others = {
        "config.py": "--train.epochs",
        "training/launch.py": "--ntasks-per-node",
    }  # words of a command line
    package, wrong = ROOT / "src" / "detrscope", []
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        if not name.startswith("cli/"):
            for line, text in messages(path):
                outside = re.sub(r"`detrscope [^`]*`", "", text)  # a whole command is said as it is typed
                options = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", outside)) - {others.get(name)}
                wrong += [f"{name}:{line}: {option}" for option in options]
    assert not wrong
