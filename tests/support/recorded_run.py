"""A tiny training run with snapshots, for the tests of recording and of films."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detrscope.commands.train import train

SOURCE = "drawn-dogs:count=8,val=4,test=2,size=64"
TINY: dict[str, Any] = {
    "data.batch_size": 4,
    "data.short_side": 64,
    "data.long_side": 64,
    "train.epochs": 2,
    "train.precision": "fp32",  # snapshots are compared with traces of the saved model
    "train.evaluate_every": 2,
    "train.recording.every": None,
    "train.recording.count": 2,
    "train.recording.features": 2,
}


def record_run(folder: Path, name: str, **more: Any) -> Path:
    """Train in `folder`/`name`, drawings kept in `folder`/cache."""
    overrides = {**TINY, **{key.replace("__", "."): value for key, value in more.items()}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETRSCOPE_CACHE", str(folder / "cache"))
        return train(preset="drawn-dogs", data=SOURCE, out=folder / name, overrides=overrides).folder
