"""What a run folder holds, and how it differs from another run's: bit for bit, without times and memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

VOLATILE = ("seconds", "images_per_second", "memory_mb")  # columns that differ between any two runs
MEASURED = ("progress.seconds",)  # of a training state: the time that steps took


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dictionaries and lists with their dotted names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        yield name, len(value)
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{name}.{index}")
    else:
        yield name, value


def contents(folder: Path) -> dict[str, Any]:
    """Return everything a run folder holds, by a name, without times and memory."""
    found: dict[str, Any] = {}
    state = torch.load(folder / "last.pt", weights_only=True)
    found |= {f"last.pt {name}": value for name, value in _flat(state) if name not in MEASURED}
    for path in sorted([*folder.rglob("*.safetensors"), *folder.rglob("*.trace")]):
        with safe_open(path, "pt") as file:
            name = path.relative_to(folder)
            found |= {f"{name} {key}": file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            found[f"{name} metadata"] = dict(file.metadata() or {})
    for table in ("metrics.jsonl", "attention.jsonl"):
        for number, line in enumerate((folder / table).read_text().splitlines()):
            row = {key: value for key, value in json.loads(line).items() if key not in VOLATILE}
            found[f"{table} {number}"] = row
    found["per_class.csv"] = (folder / "per_class.csv").read_text()
    found["files"] = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return found


def _bytes(tensor: torch.Tensor) -> bytes:
    """Return the bytes of a tensor, so that NaN equals itself and 0 differs from -0."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def differences(folder: Path, reference: dict[str, Any]) -> list[str]:
    """Return the names of what differs from the uninterrupted run."""
    found = contents(folder)
    differing = []
    for name in sorted(found.keys() | reference.keys()):
        ours, theirs = found.get(name), reference.get(name)
        if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
            equal = ours.dtype == theirs.dtype and _bytes(ours) == _bytes(theirs)
        else:
            equal = ours == theirs or (ours != ours and theirs != theirs)
        if not equal:
            differing.append(name)
    return differing
