"""Folders of the user's machine."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$DETRSCOPE_CACHE`, else `~/.cache/detrscope` (under `$XDG_CACHE_HOME` where set). It may not exist yet."""
    if folder := os.environ.get("DETRSCOPE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "detrscope"
