"""Released files: fetched once, checked against their hash, kept in a cache."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path

from detrscope.console import log, progress, written_whole
from detrscope.core.errors import UserError

CHUNK = 1 << 20


def cache_folder() -> Path:
    """`$DETRSCOPE_CACHE`, else `~/.cache/detrscope` (under `$XDG_CACHE_HOME` where set)."""
    if folder := os.environ.get("DETRSCOPE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "detrscope"


def fetch(url: str, sha256_prefix: str, timeout: float = 30) -> Path:
    """The file at `url`, from the cache when it is there.

    Args:
        url: where it is published.
        sha256_prefix: the first digits of its SHA-256.
        timeout: seconds without an answer before giving up.

    Raises:
        UserError: it cannot be had; the file to fetch by hand and the place to put it are named. Or its hash is wrong.
    """
    path = cache_folder() / url.rsplit("/", 1)[-1]
    if path.exists():
        if _sha256(path).startswith(sha256_prefix):
            return path
        log.warning("%s: its SHA-256 does not begin with %s; fetching it again", path, sha256_prefix)
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer, written_whole(path) as temporary:
            total = int(answer.headers.get("Content-Length") or 0) or None
            with open(temporary, "wb") as file, progress() as bar:
                task = bar.add_task(path.name, total=total)
                while block := answer.read(CHUNK):
                    file.write(block)
                    bar.advance(task, len(block))
            if not _sha256(temporary).startswith(sha256_prefix):
                raise UserError(f"{url}: what arrived has another SHA-256 than {sha256_prefix}...; try again")
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"cannot download {url} ({reason}); fetch it by hand, then put it at {path} or pass --weights FILE"
        ) from None
    return path


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
