"""What users' text does to the terminal, the log and tables of numbers: nothing."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.table import Table

from detrscope import console
from detrscope.checkpoints.load import load_random_model
from detrscope.checkpoints.native import save_checkpoint
from detrscope.cli import main
from detrscope.core.classes import ClassTable
from detrscope.core.preprocessing import Preprocessing
from detrscope.core.safe_text import escape_text, safe_csv_cell
from detrscope.core.third_party_log import source_of
from detrscope.core.types import Detections
from detrscope.inference.image_detections import DetectionsCsv, ImageDetections
from detrscope.lens.report import write_measurements_csv
from tests.conftest import ROOT
from tests.support.tiny_models import tiny_settings

NASTY = {
    "markup that closes nothing": "[/]",
    "markup": "[bold red]dog[/b]",
    "emoji code": ":dog:",
    "a newline": "dog\ncat",
    "NUL": "dog\0cat",
    "a command to the terminal": "\x1b]0;owned\x07\x1b[31m",
    "C1 controls": "\x9b31m",
    "a lone surrogate": "dog\udcff",
    "turned direction": "dog\u202egnp.exe",
    "Chinese": "\u72ac",
    "percent": "100%s %d",
    "braces": "{0} {task}",
}
TERMINAL = set("\0\x07\x1b\x9b\u202e\udcff")  # what must never arrive


@pytest.fixture(params=NASTY)
def name(request: pytest.FixtureRequest) -> str:
    return NASTY[request.param]


def test_tables_show_names_unchanged(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(name, title=name, caption=name)
    table.add_row(name)
    console.print_table(table)
    text = capsys.readouterr().out
    assert not TERMINAL & set(text)
    assert text.count(escape_text(name, keep="\n").split("\n")[0]) == 4


@pytest.mark.parametrize("quiet", [False, True])
def test_log_records_are_one_line_each(
    name: str, quiet: bool, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    console.setup_console(quiet)
    handler = logging.FileHandler(tmp_path / "log.txt", encoding="utf-8")
    console.log.addHandler(handler)
    try:
        console.log.warning("%s: unreadable", name)
    finally:
        console.log.removeHandler(handler)
        handler.close()
    (line,) = capfd.readouterr().err.splitlines()
    assert not TERMINAL & set(line) and escape_text(name) in line
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == f"{escape_text(name)}: unreadable\n"


def test_progress_shows_names_unchanged(name: str) -> None:
    from rich.console import Console

    out = io.StringIO()
    with console.progress() as bar:
        bar.add_task(name, total=1)
        Console(file=out, width=200).print(bar.get_renderable())
    assert not TERMINAL & set(out.getvalue()) and escape_text(name) in out.getvalue()


def test_errors_are_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["detrscope", "detect", f"no {name} here"])
    with pytest.raises(SystemExit) as end:
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and not TERMINAL & set(line) and line.startswith("detrscope: ")


@pytest.mark.parametrize(
    "words", ["--model {}", "--show-names {}", "--format {}", "--threshold {}", "--nope-{}"]
)
def test_wrong_options_are_one_line_errors(
    name: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    arguments = [word.format(name) if "{}" in word else word for word in words.split(" ")]
    monkeypatch.setattr(sys, "argv", ["detrscope", "detect", "a.png", "--quiet", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    lines = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and len(lines) == 1 and not TERMINAL & set(lines[0])


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\\t=1"),
        ("\r=1", "'\\r=1"),
        (" =1", "' =1"),
        ("dog", "dog"),
        ("a=b", "a=b"),
        (-1.5, -1.5),
        (None, None),
    ],
)
def test_csv_cells_are_not_formulas(cell: object, written: object) -> None:
    assert safe_csv_cell(cell) == written


def test_detections_with_odd_names_in_csv_and_json(name: str) -> None:
    one = torch.zeros(1)
    detections = Detections(torch.zeros(1, 4), one, one.long(), (name,), one.long(), 4, 4)
    found = ImageDetections(f"={name}.png", detections)
    file = io.StringIO(newline="")
    DetectionsCsv(file).add(found)
    heading, row = csv.reader(file.getvalue().splitlines())
    assert row[heading.index("source")] == f"'={escape_text(name)}.png"
    file.getvalue().encode("utf-8")
    assert json.loads(json.dumps(found.to_json()))["detections"][0]["name"] == name


def test_part_metrics_with_odd_names_can_be_written(tmp_path: Path) -> None:
    write_measurements_csv(tmp_path / "a.csv", [])
    assert (tmp_path / "a.csv").read_text() == "\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_unencodable_names_are_escaped(encoding: str, tmp_path: Path) -> None:
    folder = tmp_path / "\u72ac"
    folder.mkdir()
    Image.new("RGB", (32, 32)).save(folder / "\u72ac.png")
    code = "from detrscope.cli import main; main()"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"),
        "PYTHONIOENCODING": encoding,
        "PYTHONUTF8": "0",
    }
    for words, wanted in (
        (("detect", str(folder), "--device", "cpu"), 0),
        (("detect", str(folder / "none.png")), 2),
    ):
        command = [sys.executable, "-c", code, *words]
        done = subprocess.run(command, capture_output=True, env=environment, cwd=tmp_path)
        text = (done.stdout + done.stderr).decode(encoding)
        assert done.returncode == wanted, text
        assert ("\u72ac" if encoding == "utf-8" else "\\u72ac") in text and "Traceback" not in text


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK"])
def test_only_the_first_process_logs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str
) -> None:
    with caplog.at_level(logging.INFO, logger="detrscope"):
        for rank in ("0", "1"):
            monkeypatch.setenv(variable, rank)
            console.log.info("finished in %s", rank)
            console.log.warning("careful in %s", rank)
    assert [record.getMessage() for record in caplog.records] == [
        "finished in 0",
        "careful in 0",
        "careful in 1",
    ]


@pytest.mark.parametrize("quiet", [True, False])
def test_lightning_follows_our_log_level(quiet: bool, tmp_path: Path) -> None:
    code = (
        f"from detrscope import console; console.setup_console(quiet={quiet})\n"
        "from lightning.fabric import Fabric; Fabric(accelerator='cpu', devices=1, precision='bf16-mixed')"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and ("Using bfloat16" in done.stderr) != quiet


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset and a model whose classes and files have the worst names."""
    folder = tmp_path_factory.mktemp("nasty")
    names = tuple(NASTY.values())
    ids = tuple(range(1, len(names) + 1))
    loaded = load_random_model(
        "detr-r18", tiny_settings("detr-r18"), ClassTable(ids, names), Preprocessing(48, 64)
    )
    save_checkpoint(folder / "model.safetensors", loaded.model, loaded.card)
    data = folder / "data"
    (data / "val").mkdir(parents=True)
    (data / "annotations").mkdir()
    images, boxes = [], []
    for number, file in enumerate(("[b]{x}.png", "=1+1.png", "\u72ac $y$\x1b[31m.png"), start=1):
        Image.new("RGB", (64, 48), (80 * number, 90, 20)).save(data / "val" / file)
        images.append({"id": number, "file_name": file, "width": 64, "height": 48})
        boxes += [
            {
                "id": 100 * number + i,
                "image_id": number,
                "category_id": i,
                "bbox": [i, i, 20, 20],
                "area": 400,
                "iscrowd": 0,
            }
            for i in ids
        ]
    categories = [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)]
    tree = {"images": images, "annotations": boxes, "categories": categories}
    (data / "annotations" / "instances_val.json").write_text(json.dumps(tree))
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "detect data/val --model model.safetensors --threshold 0 --out OUT",
        "detect data/val --model model.safetensors --threshold 0 --csv",
        "detect data/val --model model.safetensors --threshold 0 --json",
        "see data/val --model model.safetensors --threshold 0 --view detections --view query-self-attention --out OUT",
        "evaluate --data coco:data --model model.safetensors --out OUT",
        "faithfulness --data coco:data --model model.safetensors --count 1 --threshold 0 --steps 2 --sanity 0 "
        "--method rollout --out OUT",
        "data show coco:data --split val --no-augment --out OUT/a.png",
        "data check coco:data",
    ],
)
def test_every_command_accepts_odd_names(
    command: str,
    nasty: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(nasty)
    words = command.replace("OUT", str(tmp_path / "out")).split()
    monkeypatch.setattr(sys, "argv", ["detrscope", *words])
    with pytest.raises(SystemExit) as end:
        main()
    streams = capfd.readouterr()
    assert end.value.code in (0, None), streams.err
    assert not TERMINAL & set(streams.out + streams.err)
    for path in (tmp_path / "out").rglob("*.csv"):
        for row in csv.reader(path.read_text(encoding="utf-8").splitlines()):
            assert not [cell for cell in row if cell.startswith(("=", "+", "@", "\t"))], path


def test_progress_is_logged_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", -1.0)
    with caplog.at_level(logging.INFO, logger="detrscope"), console.progress() as bar:
        task = bar.add_task("hiding [/]", total=4)
        bar.advance(task, 0.5)
        bar.advance(task, 1.5)
    assert [record.getMessage() for record in caplog.records] == ["hiding [/]: 0 of 4", "hiding [/]: 2 of 4"]


THIRD_PARTY = """
import io, logging, warnings
from detrscope import console
console.setup_console(level={level!r})
from PIL import Image
import torch
array = torch.zeros(3).numpy()
array.flags.writeable = False
torch.from_numpy(array)
Image.MAX_IMAGE_PIXELS = 10
file = io.BytesIO()
Image.new("1", (4, 4)).save(file, "PNG")
Image.open(file)
logging.getLogger("other.module").warning("%s\\nlines", "two")
logging.getLogger("other.module").info("not shown")
logging.getLogger("other.module").warning("%d", "no number")
warnings.warn("for programmers", DeprecationWarning)
from lightning.fabric.utilities.rank_zero import rank_zero_info, rank_zero_warn
rank_zero_info("an info")
rank_zero_warn("a warning")
"""


@pytest.mark.parametrize("level", ["debug", "error"])
def test_warnings_of_other_packages_are_lines_of_the_log(level: str) -> None:
    code = THIRD_PARTY.format(level=level)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = ran.stderr.splitlines()
    expected = [
        ("WARNING", "<string>: The given NumPy array is not writable"),
        ("WARNING", "Pillow: Image size (16 pixels) exceeds limit of 10 pixels"),
        ("WARNING", "other: two lines"),
        ("WARNING", "other: %d"),
        ("DEBUG", "<string>: for programmers (DeprecationWarning)"),
        ("INFO", "Lightning: an info"),
        ("WARNING", "<string>: a warning (UserWarning)"),
    ]
    shown = [
        (name, text)
        for name, text in expected
        if logging.getLevelName(name) >= logging.getLevelName(level.upper())
    ]
    assert len(lines) == len(shown), ran.stderr
    for line, (name, text) in zip(lines, shown, strict=True):
        assert line.startswith(f"{name:8} {text}"), line
    assert not ran.stdout


def test_lines_say_what_a_known_warning_means() -> None:
    assert source_of("/a/lib/python3.11/site-packages/PIL/Image.py") == "Pillow"
    assert source_of("/a/lib/python3.11/site-packages/six.py") == "six"
    assert source_of("/a/src/detrscope/data/coco.py") == "detrscope/data/coco.py"
    assert source_of("/usr/lib/python3.11/json/__init__.py") == "Python"
    with warnings.catch_warnings(record=True), pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr(console.log, "log", lambda level, text, *args: lines.append(text % args))
        console.setup_console()
        warnings.showwarning("Corrupt EXIF data.  Expecting 4.", UserWarning, "/site-packages/PIL/x.py", 1)
    (line,) = lines
    assert line.startswith("Pillow: Corrupt EXIF data. Expecting 4; an image file's metadata are damaged")


def test_every_command_takes_quiet_and_log_level() -> None:
    import typer

    from detrscope.cli.app import app

    todo: list[tuple[str, Any]] = [("detrscope", typer.main.get_command(app))]
    seen = 0
    while todo:
        name, command = todo.pop()
        if children := getattr(command, "commands", None):
            todo += [(f"{name} {child}", one) for child, one in children.items()]
            continue
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--quiet", "--log-level"} <= options, name
        seen += 1
    assert seen >= 20


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
    ids=["nothing", "spins", "policy"],
)
def test_idle_threads_sleep_early_unless_the_user_says_how(given: dict[str, str], expected: str) -> None:
    env = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = """import os, sys
from detrscope.cli import app, main
app.app = lambda **_: print("torch" in sys.modules, os.environ.get("GOMP_SPINCOUNT")) or 0
main()"""
    done = subprocess.run([sys.executable, "-c", code], env=env | given, capture_output=True, text=True)
    assert done.stdout.split() == ["False", expected] and done.returncode == 0
