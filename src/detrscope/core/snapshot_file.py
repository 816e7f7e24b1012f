"""Moments of training on disk: one small file for all probe images at a step."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from detrscope.core.errors import UserError
from detrscope.core.files import atomic_write
from detrscope.core.json_schema import short_repr
from detrscope.core.packing import own_storage, pack, unpack
from detrscope.core.snapshot import DenseRows, FeatureMaps, ProbeSnapshot, SampledPoints, SnapshotStep
from detrscope.core.text_files import parse_json

HEADER = "detrscope.moment"
VERSION = 1
CLASSES: dict[str, type] = {
    c.__name__: c for c in (FeatureMaps, SampledPoints, DenseRows, ProbeSnapshot, SnapshotStep)
}


def snapshot_paths(folder: Path) -> list[Path]:
    """The files of all moments in a folder, in the order of training."""
    return sorted(folder.glob("step_*.safetensors"))


def save_snapshot(moment: SnapshotStep, folder: Path) -> Path:
    """Write a moment, whole or not at all; one of the same step is replaced."""
    tensors: dict[str, Tensor] = {}
    header = json.dumps({"version": VERSION, "moment": pack(moment, "moment", tensors)})
    path = folder / f"step_{moment.step:07d}.safetensors"
    with atomic_write(path) as temporary:
        save_file(own_storage(tensors), temporary, metadata={HEADER: header})
    return path


def load_snapshot(path: Path) -> SnapshotStep:
    """Read what `save_snapshot` wrote.

    Raises:
        UserError: missing, damaged, or of a version that is not known here.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(HEADER, "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a look of training, or damaged ({error})") from None
    header = parse_json(text, f"{path}: its header")
    found = header.get("version") if isinstance(header, dict) else header
    if not isinstance(header, dict) or found != VERSION:
        raise UserError(f"{path}: a look in format {short_repr(found)}; this version reads format {VERSION}")
    try:
        moment = unpack(header.get("moment"), tensors, CLASSES)
    except UserError as error:
        raise UserError(f"{path}: damaged: {error}") from None
    if not isinstance(moment, SnapshotStep):
        raise UserError(f"{path}: damaged: expected a moment of training, found {short_repr(moment)}")
    return moment
