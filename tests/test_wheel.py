"""The wheel has every file of the package, and nothing else."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from detrscope._version import __version__
from detrscope.config import config_preset_names
from detrscope.families import VARIANTS
from tests.conftest import ROOT

PACKAGE = ROOT / "src/detrscope"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        yield archive


def info(wheel: zipfile.ZipFile, name: str) -> str:
    return wheel.read(f"detrscope-{__version__}.dist-info/{name}").decode()


def test_wheel_has_the_files_of_the_package_only(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    described = {name for name in names if name.startswith(f"detrscope-{__version__}.dist-info/")}
    package = {
        f"detrscope/{path.relative_to(PACKAGE).as_posix()}"
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names - described == package
    assert {Path(name).suffix for name in package} <= {
        *(".py", ".typed", ".yaml", ".json", ".safetensors", ".js", ".css", ".html"),
    }


def test_wheel_has_what_the_demo_needs(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    shipped = {variant.shipped for variant in VARIANTS.values() if variant.shipped}
    assert shipped and {f"detrscope/weights/{name}" for name in shipped} <= names
    assert {f"detrscope/presets/{name}.yaml" for name in config_preset_names()} <= names
    assert {
        "detrscope/explorer/page/page.html",
        "detrscope/explorer/page/main.js",
        "detrscope/py.typed",
    } <= names


def test_wheel_installs_the_command_and_the_licence(wheel: zipfile.ZipFile) -> None:
    assert "detrscope = detrscope.cli:main" in info(wheel, "entry_points.txt")
    assert "Apache License" in info(wheel, "licenses/LICENSE")
    described = Parser().parsestr(info(wheel, "METADATA"))
    assert (described["Version"], described["License-Expression"]) == (__version__, "Apache-2.0")
    assert described["Requires-Python"] == ">=3.11"
