"""The public names of the package."""

from __future__ import annotations

import ast

import pytest

import detrscope as ds
from tests.conftest import ROOT

NAMES = [
    *(
        "Batch",
        "Bias",
        "Detections",
        "Detector",
        "Gain",
        "KeyBias",
        "LoadOptions",
        "MediaOptions",
        "Outputs",
        "Swap",
        "Tiling",
        "Trace",
        "ViewOptions",
    ),
    *(
        "ablate",
        "compare",
        "detect",
        "detect_stream",
        "draw",
        "draw_attention",
        "evaluate",
        "explore",
        "export",
        "faithfulness",
        "hide_region",
        "load",
        "publish",
        "push_to_hub",
        "see",
        "swaps_from",
        "timelapse",
        "trace",
        "train",
        "why",
    ),
]


def test_public_names_are_these() -> None:
    assert ds.__all__ == dir(ds) == NAMES
    for name in NAMES:
        assert getattr(ds, name).__name__ == name
        assert getattr(ds, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'Detecter'"):
        _ = ds.Detecter


def test_type_checkers_see_the_public_names() -> None:
    """The names that are imported lazily are imported for type checkers too; the package is marked as typed."""
    package = ROOT / "src" / "detrscope"
    tree = ast.parse((package / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = {
        a.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for a in node.names
    }
    assert sorted(imports) == NAMES
    assert all(ds.MODULES[name] == module for name, module in imports.items())
    assert (package / "py.typed").is_file()
