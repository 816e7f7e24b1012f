"""Snapshot files: one small safetensors file for all probe images at one step of training."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from detrscope.core.errors import UserError
from detrscope.core.files import atomic_write
from detrscope.core.json_schema import short_repr
from detrscope.core.packing import pack, pack_own_storage, unpack
from detrscope.core.records import DeformableRecord, DenseRecord
from detrscope.core.snapshot import FeatureMaps, ProbeSnapshot, SnapshotStep
from detrscope.core.text_files import parse_json

HEADER = "detrscope.snapshot"
VERSION = 1
CLASSES: dict[str, type] = {
    c.__name__: c for c in (DeformableRecord, DenseRecord, FeatureMaps, ProbeSnapshot, SnapshotStep)
}


def snapshot_paths(folder: Path) -> list[Path]:
    """Return the snapshot files of a folder, in the order of training."""
    return sorted(folder.glob("step_*.safetensors"))


def snapshot_path(folder: Path, step: int) -> Path:
    """Return the file for the snapshots of a step."""
    return folder / f"step_{step:07d}.safetensors"


def save_snapshot(step: SnapshotStep, folder: Path) -> Path:
    """Write the snapshots of a step atomically, in place of those of the same step."""
    tensors: dict[str, Tensor] = {}
    header = json.dumps({"version": VERSION, "snapshot": pack(step, "snapshot", tensors)})
    path = snapshot_path(folder, step.step)
    with atomic_write(path) as temporary:
        save_file(pack_own_storage(tensors), temporary, metadata={HEADER: header})
    return path


def load_snapshot(path: Path) -> SnapshotStep:
    """Read a file that `save_snapshot` wrote.

    Raises:
        UserError: a missing or damaged file, or one of an unknown format version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(HEADER, "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a snapshot, or damaged ({error})") from None
    header = parse_json(text, f"{path}: its header")
    version = header.get("version") if isinstance(header, dict) else header
    if not isinstance(header, dict) or version != VERSION:
        raise UserError(
            f"{path}: a snapshot in format {short_repr(version)}; this version reads format {VERSION}"
        )
    try:
        step = unpack(header.get("snapshot"), tensors, CLASSES)
    except UserError as error:
        raise UserError(f"{path}: damaged: {error}") from None
    if not isinstance(step, SnapshotStep):
        raise UserError(f"{path}: damaged: expected the snapshots of a step, found {short_repr(step)}")
    return step
