"""Run a notebook from top to bottom, in a folder and with parameters of a test."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

TIMEOUT = 300  # seconds a cell


def run_notebook(path: Path, folder: Path, **parameters: Any) -> Any:
    """Execute a copy of a notebook; it is written to the folder with its outputs, and returned.

    Args:
        path: the notebook.
        folder: working directory of its cells.
        parameters: values of names that its cell with the tag `parameters` assigns, a name to a line.
    """
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    for name, value in parameters.items():
        cell.source, replaced = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value!r}", cell.source)
        assert replaced == 1, f"{path.name} has no parameter {name} any more"
    client = NotebookClient(
        notebook, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    try:
        client.execute()
    finally:
        nbformat.write(notebook, folder / path.name)
    return notebook


def outputs(notebook: Any, kind: str) -> list[str]:
    """Return all outputs of a MIME type, such as `text/html`, or the printed text for `stdout` and `stderr`."""
    found = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    if kind in ("stdout", "stderr"):
        return [output.text for output in found if output.output_type == "stream" and output.name == kind]
    return [output.data[kind] for output in found if kind in output.get("data", {})]
