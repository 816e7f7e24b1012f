"""The arrows of the house: which part may import which. Read from the source, so that lazy imports count too."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCE = ROOT / "src" / "detrscope"
MODULE = re.compile(r"^detrscope\.\w[\w.]*$")  # a module named in a string, as for importlib
EVERYBODY = {"_version", "config", "console", "core"}
MODELS = EVERYBODY | {"ops", "blocks", "families", "checkpoints"}
MAY_IMPORT = {
    "_version": set(),
    "core": {"_version"},
    "config": {"core"},
    "console": {"core"},
    "ops": EVERYBODY,
    "blocks": EVERYBODY | {"ops"},
    "families": EVERYBODY | {"ops", "blocks"},
    "checkpoints": EVERYBODY | {"ops", "blocks", "families"},
    "synthetic": EVERYBODY,
    "data": EVERYBODY | {"synthetic"},
    "evaluation": EVERYBODY | {"data"},
    "training": MODELS | {"data", "evaluation"},
    "lens": EVERYBODY,
    "views": EVERYBODY | {"lens"},
    "display": EVERYBODY | {"views"},
    "trace_interface": EVERYBODY | {"display", "lens", "views"},
    "explorer": EVERYBODY | {"lens", "views"},
    "inference": MODELS | {"data", "display", "trace_interface"},
    "recording": MODELS | {"data", "evaluation", "training", "inference", "lens"},
    "explain": MODELS | {"data", "evaluation", "inference", "lens", "trace_interface"},
}
SEE_EVERYTHING = {"commands", "cli", "__init__", "__main__"}
ROOMS = MAY_IMPORT.keys() | SEE_EVERYTHING
FILES = sorted(SOURCE.rglob("*.py"))


def modules_imported(path: Path, *, for_types: bool = True) -> Iterator[str]:
    """Yield the modules and names of the package that a file imports, at whatever depth in its code.

    Args:
        path: file to read.
        for_types: include imports for type checkers only, and modules named in strings.
    """
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING" and not for_types:
            todo += node.orelse
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [f"{a.name}.__init__" if a.name == "detrscope" else a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and for_types:
            names = [name for name in MODULE.findall(node.value) if name.split(".")[1] in ROOMS]
        yield from (name for name in names if name.startswith("detrscope."))
        todo += ast.iter_child_nodes(node)


def part_of(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    part = part_of(path)
    if part in SEE_EVERYTHING:
        return
    assert part in MAY_IMPORT, f"{path}: a part of the house without a place in the arrows"
    imported = {name.split(".")[1] for name in modules_imported(path)}
    wrong = imported - MAY_IMPORT[part] - {part}
    assert not wrong, f"{part} must not import {sorted(wrong)}"


def test_no_import_cycles() -> None:
    """No module imports itself by way of others, lazily or not; imports for type checkers are ignored."""
    modules = {
        ".".join(["detrscope", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(
            ".__init__"
        ): path
        for path in FILES
    }

    def module_of(name: str) -> str:
        return name if name in modules else name.rpartition(".")[0]

    graph = {
        module: {module_of(name) for name in modules_imported(path, for_types=False)} - {"detrscope"}
        for module, path in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_softmax_attention_is_in_one_file() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if path != SOURCE / "ops" / "attention.py":
            assert "scaled_dot_product_attention" not in text and "MultiheadAttention" not in text.replace(
                "nn.MultiheadAttention:", ""
            ), path


def test_package_and_help_import_no_heavy_library() -> None:
    code = (
        "import sys, detrscope, detrscope.cli.app; "
        "heavy = {'torch', 'torchvision', 'lightning', 'matplotlib', 'scipy', 'supervision'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_python_m_runs_the_command_line() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "detrscope", "--version"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0 and re.fullmatch(r"\d+\.\d+\S*\n", result.stdout), result.stderr
