"""What the system refuses is one line, of every command: 2 where a wrong place was named, 1 where the work failed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from detrscope.cli import as_options, main
from detrscope.core.errors import UserError, WorkFailed, in_one_line
from detrscope.core.files import atomic_write, check_writable_file, check_writable_folder
from detrscope.data.drawn_dogs import write_drawn
from tests.conftest import ROOT

DOGS = "drawn-dogs:count=2,val=2,test=2,size=96"
COMMANDS = {
    "demo": "demo --quick --out OUT",
    "detect": f"detect {ROOT / 'docs'} --out OUT",
    "see": f"see {ROOT / 'docs'} --out OUT",
    "train": f"train --preset drawn-dogs --data {DOGS} --out OUT",
    "evaluate": f"evaluate --model sprint-dense-n --data {DOGS} --out OUT",
    "evaluate json": f"evaluate --model sprint-dense-n --data {DOGS} --json OUT",
    "evaluate results": f"evaluate --model sprint-dense-n --data {DOGS} --results OUT",
    "faithfulness": f"faithfulness --data {DOGS} --out OUT",
    "timelapse": "timelapse run --out OUT",
    "plot": "plot run --out OUT.png",
    "data draw": "data draw --count 1 --size 96 --out OUT",
    "data check": f"data check {DOGS} --split val --out OUT",
    "data show": f"data show {DOGS} --split val --count 1 --out OUT.png",
    "data subset": f"data subset {DOGS} --category dog --out OUT",
    "data convert": f"data convert {DOGS} --out OUT",
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETRSCOPE_CACHE", str(tmp_path_factory.getbasetemp() / "failures-cache"))


def run(monkeypatch: pytest.MonkeyPatch, command: str, out: str) -> int:
    words = [word.replace("OUT", out) for word in command.split()]
    monkeypatch.setattr(sys, "argv", ["detrscope", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.mark.parametrize("place", ["below a file", "name too long", "proc"])
@pytest.mark.parametrize("command", COMMANDS)
def test_unwritable_paths_are_one_line_errors(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: str,
    place: str,
) -> None:
    (tmp_path / "file").write_text("precious")
    out = {
        "below a file": f"{tmp_path}/file/out",
        "name too long": f"{tmp_path}/{'x' * 300}",
        "proc": "/proc/nowhere/out",
    }[place]
    if place == "proc" and not Path("/proc/self").is_dir():
        pytest.skip("no /proc here")
    assert run(monkeypatch, f"{COMMANDS[command]} --quiet", out) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("detrscope: ") and ("x" * 300 in line or Path(out).parent.name in line)
    assert (tmp_path / "file").read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["file"], "something was left behind"


FILES = {
    "evaluate json",
    "evaluate results",
    "plot",
    "data check",
    "data show",
}  # what writes a file, not a folder


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - FILES))
def test_file_given_as_folder_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    assert run(monkeypatch, f"{COMMANDS[command]} --quiet", str(file)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(file) in line and file.read_text() == "precious"


@pytest.mark.parametrize("command", sorted(FILES))
def test_folder_given_as_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    folder = tmp_path / ("folder.png" if "OUT.png" in COMMANDS[command] else "folder")
    folder.mkdir()
    assert run(monkeypatch, f"{COMMANDS[command]} --quiet", str(tmp_path / "folder")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder) in line


def start(*words: str, stdout: int | IO[str] = subprocess.PIPE, limit: int = 0) -> tuple[int, list[str]]:
    """Run the command in a process of its own; return its exit code and the lines of standard error."""
    code = "import sys; from detrscope.cli import main; sys.argv[0] = 'detrscope'; main()"
    command = [sys.executable, "-c", code, *words]
    if limit:
        command = ["bash", "-c", f'ulimit -f {limit}; exec "$0" "$@"', *command]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)
    return done.returncode, done.stderr.splitlines()


PRINTING = ("models", "models --json", "--help", "train --help", "--version")


@pytest.mark.parametrize("command", PRINTING)
def test_full_disk_at_standard_output_is_one_line(command: str) -> None:
    with open(existing("/dev/full"), "w") as full:
        code, lines = start(*command.split(), stdout=full)
    assert code == 1 and len(lines) == 1 and lines[0].startswith("detrscope: standard output: cannot be")


@pytest.mark.parametrize("command", PRINTING)
def test_broken_pipe_is_one_line(command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        code, lines = start(*command.split(), stdout=writing)
    finally:
        os.close(writing)
    assert code == 1 and len(lines) == 1 and lines[0].startswith("detrscope: standard output: cannot be")


def test_closed_standard_output_is_one_line() -> None:
    code = "exec >&-; exec \"$0\" -c 'from detrscope.cli import main; main()' models"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [existing("/bin/bash"), "-c", code, sys.executable]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == 1
    assert done.stderr == "detrscope: standard output: cannot be written (it is closed)\n"


@pytest.mark.parametrize("command", ["data draw", "data convert"])
def test_file_size_limit_is_one_line_error(command: str, tmp_path: Path) -> None:
    existing("/bin/bash")
    source = tmp_path / "dogs"
    write_drawn(source, count=1, size=160)
    words = COMMANDS[command].replace(DOGS, f"coco:{source}").replace(" --split val", "").replace("96", "160")
    out = tmp_path / "out"
    code, lines = start(*words.replace("OUT", str(out)).split(), "--quiet", limit=1)
    assert code in (1, 2), lines
    assert len(lines) == 1 and "File too large" in lines[0]
    assert [p.name for p in tmp_path.iterdir()] == ["dogs"]


def existing(path: str) -> str:
    if not Path(path).exists():
        pytest.skip(f"no {path} here")
    return path


class Rust(Exception):
    """As safetensors raises it."""


@pytest.mark.parametrize(
    ("raised", "number"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
        (Rust("Error while serializing: I/O error: File too large (os error 27)"), errno.EFBIG),
        (RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/1"), errno.EIO),
        (RuntimeError("a fault of ours"), None),
        (FileNotFoundError(errno.ENOENT, "No such file", "input.png"), None),
    ],
)
def test_write_errors_name_the_file(tmp_path: Path, raised: Exception, number: int | None) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(type(raised) if number is None else OSError) as caught, atomic_write(path):
        raise raised
    if number is None:
        assert caught.value is raised
    else:
        assert isinstance(caught.value, OSError)
        assert (caught.value.errno, caught.value.filename) == (number, str(path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("a"), 2),
        (WorkFailed("a"), 1),
        (PermissionError(errno.EACCES, "Permission denied", "a"), 2),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), 2),
        (OSError(errno.ENOSPC, "No space left on device", "a"), 1),
        (OSError(errno.EMFILE, "Too many open files", "a"), 1),
        (OSError("decoder"), 1),
        (UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates not allowed"), 2),
        (MemoryError(), 1),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: Exception, code: int) -> None:
    told = in_one_line(error)
    assert told is not None and told[1] == code and "\n" not in told[0] and told[0]


def test_unexpected_errors_keep_their_traceback() -> None:
    assert in_one_line(KeyError("a")) is None


def test_longest_file_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 246}.json"
    with atomic_write(path) as temporary:
        temporary.write_text("{}")
    assert path.read_text() == "{}"


def test_devices_are_never_replaced() -> None:
    null = Path(existing("/dev/null"))
    with atomic_write(null) as temporary:
        temporary.write_text("{}")
    assert null.is_char_device()


def test_deleted_working_directory_is_one_line_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UserError, match="cannot be written"):
        check_writable_folder("out")


def test_path_checks_leave_no_files(tmp_path: Path) -> None:
    check_writable_folder(tmp_path / "a" / "b")
    check_writable_file(tmp_path / "a" / "b.json")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="NUL"):
        check_writable_folder(tmp_path / "a\0b")


def test_arguments_in_messages_become_options() -> None:
    text = (
        "run: already contains a run; continue it with resume=True, or give from_=x.pt and probe_images=DIR"
    )
    assert as_options(text) == (
        "run: already contains a run; continue it with --resume, or give --from x.pt and --probe-images DIR"
    )
    assert as_options("train.data=3, model resume") == "train.data=3, model resume"
