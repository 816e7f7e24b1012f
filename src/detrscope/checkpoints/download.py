"""Released files: fetched once, checked against their hash, kept in a cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from detrscope.console import atomic_write, log, progress
from detrscope.core.download import download, shown_url
from detrscope.core.errors import UserError
from detrscope.core.files import cache_folder

LARGEST = 8 << 30  # bytes of a file of weights


def fetch(url: str, sha256_prefix: str, timeout: float = 30, instead: str = "pass --weights FILE") -> Path:
    """The file at `url`, from the cache when it is there.

    Args:
        url: where it is published.
        sha256_prefix: the first digits of its SHA-256.
        timeout: seconds without an answer before giving up.
        instead: what else the caller can do, for the message.

    Raises:
        UserError: it cannot be had; the file to fetch by hand and the place to put it are named. Or its hash is wrong.
    """
    path = cache_folder() / url.rsplit("/", 1)[-1]
    if path.exists():
        if _sha256(path).startswith(sha256_prefix):
            return path
        log.warning("%s: its SHA-256 does not begin with %s; fetching it again", path, sha256_prefix)
    try:
        with atomic_write(path) as temporary:
            with open(temporary, "wb") as file, progress() as bar:
                task = bar.add_task(path.name, total=None)

                def shown(count: int, total: int | None) -> None:
                    bar.update(task, total=total, advance=count)

                blocks = download(url, limit=LARGEST, answer_timeout=timeout, progress=shown)
                file.writelines(blocks)
            if not _sha256(temporary).startswith(sha256_prefix):
                raise UserError(f"what arrived has another SHA-256 than {sha256_prefix}...; try again")
    except UserError as error:
        raise UserError(
            f"cannot download {url} ({str(error).removeprefix(f'{shown_url(url)}: ')}); fetch it by hand, then put"
            f" it at {path} or {instead}"
        ) from None
    return path


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
