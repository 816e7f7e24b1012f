"""A command line that cannot be read is answered in one line, with exit code 2."""

from __future__ import annotations

import sys

import pytest

from detrscope.cli import main


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("see a.png --format bmp", "detrscope: Invalid value for '--format': 'bmp' is not one of 'png', "),
        ("see a.png --head two", "'--head': Input should be a valid integer"),
        ("see a.png --formt png", "No such option: --formt"),
        ("see", "Missing argument 'SOURCE'; see detrscope see --help"),
        ("sea", "No such command 'sea'. Did you mean 'see'?"),
        ("data chek", "Did you mean 'check'?"),
        ("see a.png --formt png", "Possible options: --format"),
        ("data draw --count x", "see detrscope data draw --help"),
        ("train --preset", "Option '--preset' requires an argument; see "),
    ],
)
def test_usage_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, says: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["detrscope", *words.split()])
    with pytest.raises(SystemExit) as end:
        main()
    streams = capsys.readouterr()
    assert end.value.code == 2 and not streams.out
    (line,) = streams.err.splitlines()
    assert line.startswith("detrscope: ") and says in line and line.endswith("--help")


@pytest.mark.parametrize(
    ("words", "code"), [("", 2), ("data", 2), ("--help", 0), ("see --help", 0), ("--version", 0)]
)
def test_help_is_shown_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, code: int
) -> None:
    monkeypatch.setattr(sys, "argv", ["detrscope", *words.split()])
    with pytest.raises(SystemExit) as end:
        main()
    streams = capsys.readouterr()
    assert (end.value.code or 0) == code
    assert "Usage: detrscope" in streams.out + streams.err or words == "--version"


def test_unexpected_errors_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("detrscope.cli.app.app", broken)
    with pytest.raises(ZeroDivisionError):
        main()
