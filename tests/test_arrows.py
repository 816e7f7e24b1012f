"""The arrows of the house: who may import whom. Read from the source, so that lazy imports count too."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
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
    "trace_interface": EVERYBODY | {"lens", "views"},
    "inference": MODELS | {"data", "trace_interface"},
    "recording": MODELS | {"data", "evaluation", "training", "inference", "lens"},
    "explain": MODELS | {"data", "evaluation", "inference", "lens", "trace_interface"},
}
SEE_EVERYTHING = {"commands", "cli", "__init__", "__main__"}
ROOMS = MAY_IMPORT.keys() | SEE_EVERYTHING


def imports_of(path: Path) -> set[str]:
    """The parts of the package that a file imports, at whatever depth in its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [
                f"{alias.name}.__init__" if alias.name == "detrscope" else alias.name for alias in node.names
            ]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
            if node.module == "detrscope":
                names = [f"detrscope.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [name for name in MODULE.findall(node.value) if name.split(".")[1] in ROOMS]
        found |= {name.split(".")[1] for name in names if name.startswith("detrscope.")}
    return found


def part_of(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    part = part_of(path)
    if part in SEE_EVERYTHING:
        return
    assert part in MAY_IMPORT, f"{path}: a part of the house without a place in the arrows"
    wrong = imports_of(path) - MAY_IMPORT[part] - {part}
    assert not wrong, f"{part} must not import {sorted(wrong)}"


def test_softmax_attention_is_in_one_file() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path != SOURCE / "ops" / "attention.py":
            assert "scaled_dot_product_attention" not in text and "MultiheadAttention" not in text.replace(
                "nn.MultiheadAttention:", ""
            ), path


def test_package_and_help_import_no_heavy_library() -> None:
    """Importing the package or asking for help must not import torch."""
    code = (
        "import sys, detrscope, detrscope.cli.app; "
        "heavy = {'torch', 'torchvision', 'lightning', 'matplotlib', 'scipy', 'supervision'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
