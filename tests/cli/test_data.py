"""The commands of `detrscope data`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from detrscope.cli.data import app
from detrscope.core.errors import UserError
from tests.support.datasets import MakeCoco, box


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_check_reports_errors_and_exits_with_1(make_coco: MakeCoco, tmp_path: Path) -> None:
    bad = make_coco([box(1, 1, [5, 5, 0, 9])])
    result = run("check", bad, "--out", tmp_path / "report.json")
    assert result.exit_code == 1
    for text in ("empty-box", "1.png", "1 error, 3 warnings"):
        assert text in result.stdout
    assert json.loads((tmp_path / "report.json").read_text())["errors"] == 1
    tree = json.loads(run("check", bad, "--json").stdout)
    assert tree["errors"] == 1
    assert run("check", bad, "--quiet").stdout == ""


def test_check_allows_warnings(make_coco: MakeCoco) -> None:
    result = run("check", make_coco([box(1, 1, [5, 5, 9, 9])]), "--queries", "5", "--limit", "1")
    assert result.exit_code == 0
    assert "warning: class-without-boxes (2)" in result.stdout and "... and 1 more" in result.stdout


def test_subset(make_coco: MakeCoco, tmp_path: Path) -> None:
    folder = make_coco([box(i, 7, [5, 5, 9, 9]) for i in (1, 2, 3)], images=6)
    train = ["--with", 2, "--without", 1]
    val = ["--val-with", 1, "--val-without", 2]
    result = run("subset", folder, "--category", "dog", *train, *val, "--out", tmp_path / "o")
    assert result.exit_code == 0, result.exception
    assert "train: 3 images, 2 annotations, 1 classes" in result.stdout
    assert "val: 3 images, 1 annotations" in result.stdout


def test_convert(make_coco: MakeCoco, tmp_path: Path) -> None:
    result = run(
        "convert", make_coco([box(1, 7, [5, 5, 9, 9])]), "--out", tmp_path / "o", "--files", "symlink"
    )
    assert result.exit_code == 0 and "train: 2 images, 1 annotations, 3 classes" in result.stdout
    again = run("convert", make_coco(), "--out", tmp_path / "o")
    assert isinstance(again.exception, UserError)


@pytest.mark.parametrize("augment", ["--augment", "--no-augment"])
def test_show_draws_what_the_model_sees(shared_data: Path, tmp_path: Path, augment: str) -> None:
    out = tmp_path / "sheet.png"
    arguments = ["show", shared_data / "bccd", "--count", 3, "--out", out, augment, "--data.short_side=240"]
    result = run(*arguments, "--augment.sizes=[200]", "--augment.crop=0")
    assert result.exit_code == 0, result.exception
    with Image.open(out) as sheet:
        assert min(sheet.size) > 200
    again = tmp_path / "again.png"
    run(*arguments[:5], again, *arguments[6:], "--augment.sizes=[200]", "--augment.crop=0")
    assert again.read_bytes() == out.read_bytes()


def test_show_one_image_and_wrong_settings(shared_data: Path, tmp_path: Path) -> None:
    bccd, out = shared_data / "bccd", tmp_path / "a.png"
    assert run("show", bccd, "--out", out, "--image-id", 7, "--data.short_side=200").exit_code == 0
    wrong = run("show", bccd, "--out", out, "--augment.flp=1")
    assert isinstance(wrong.exception, UserError) and "did you mean 'flip'" in str(wrong.exception)
    wrong = run("show", bccd, "--out", out, "--image-id", 7000)
    assert isinstance(wrong.exception, UserError) and "no image has the id 7000" in str(wrong.exception)


@pytest.mark.parametrize("command", ["check", "show", "subset", "convert"])
def test_help(command: str) -> None:
    assert run(command, "--help").exit_code == 0
