"""Every command's help ends with examples that the command understands; shells complete words."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from detrscope.cli import main
from detrscope.cli.app import app
from detrscope.cli.examples import EXAMPLES
from tests.conftest import ROOT


def commands(group: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*before, name))
        else:
            yield " ".join((*before, name)), command


TREE = typer.main.get_command(app)
COMMANDS = dict(commands(TREE))


def help_of(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["detrscope", *command.split(), "--help"])
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    return capsys.readouterr().out


def test_examples_are_of_every_command() -> None:
    assert EXAMPLES.keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_examples_that_parse(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = help_of(command, monkeypatch, capsys).rstrip().splitlines()
    shown = tuple(line.strip() for line in lines[-len(EXAMPLES[command]) :])
    assert shown == EXAMPLES[command]
    assert re.search(r"Examples?:", lines[-len(shown) - 2])
    for example in shown:
        asked: list[Any] = []
        with monkeypatch.context() as patch:
            for leaf in COMMANDS.values():
                patch.setattr(leaf, "invoke", asked.append)
            TREE.main(shlex.split(example)[1:], "detrscope", standalone_mode=False)
        (context,) = asked
        assert context.command is COMMANDS[command], example


def complete(shell: str, words: str, **more: str) -> tuple[int, str]:
    """Return exit code and output of the command as a shell's completion calls it."""
    code = "import sys; from detrscope.cli import main; sys.argv[0] = 'detrscope'; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "_DETRSCOPE_COMPLETE": f"complete_{shell}"}
    environment |= {"_TYPER_COMPLETE_ARGS": words, "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environment, **more}, capture_output=True, text=True
    )
    assert not done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("shell", "words", "expected"),
    [
        ("bash", "detrscope de", ["demo", "detect"]),
        ("bash", "detrscope data c", ["check", "convert"]),
        ("zsh", "detrscope evaluate --mod", ['"--model"']),
        ("fish", "detrscope see --view head", ["heads"]),
    ],
)
def test_shells_complete_words(shell: str, words: str, expected: list[str]) -> None:
    code, output = complete(shell, words, _TYPER_COMPLETE_FISH_ACTION="get-args")
    assert code == 0 and all(word in output for word in expected)


def test_completed_options_are_one_line_each() -> None:
    _, output = complete("fish", "detrscope see --t", _TYPER_COMPLETE_FISH_ACTION="get-args")
    lines = output.splitlines()
    assert len(lines) > 4 and all(re.match(r"--t[\w-]+\t", line) for line in lines)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_for_the_shell(shell: str, tmp_path: Path) -> None:
    code = "import sys; from detrscope.cli import main; main()"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "HOME": str(tmp_path),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, "--install-completion", shell],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("_DETRSCOPE_COMPLETE" in text for text in written)
