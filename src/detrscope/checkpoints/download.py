"""Download released weights once, verify their hash, keep them in a cache."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from detrscope.console import log, progress
from detrscope.core.download import download, shown_url, url_path
from detrscope.core.errors import UserError
from detrscope.core.files import atomic_write, cache_folder

MAX_BYTES = 8 << 30  # of a file of weights


def fetch_from_url(url: str) -> Path:
    """Return the file at a URL that a user gives, downloaded unless it is in the cache.

    Files of different URLs may have the same name, so each URL has a folder in the cache. The SHA-256 is checked where
    the name ends in digits of it, as torch.hub's convention is.

    Raises:
        UserError: the URL names no file, or as for `fetch_checkpoint`.
    """
    name = url_path(url).rpartition("/")[2]
    if not re.fullmatch(r"[\w.-]+\.\w+", name):
        raise UserError(f"{shown_url(url)}: expected the URL of a file of weights, such as .../model.pth")
    folder = cache_folder() / hashlib.sha256(url.encode()).hexdigest()[:16]
    digits = re.fullmatch(r".*-([0-9a-f]{8,64})\.\w+", name)
    return fetch_checkpoint(url, digits[1] if digits else "", instead="give its path", path=folder / name)


def fetch_checkpoint(
    url: str,
    sha256_prefix: str,
    timeout: float = 30,
    instead: str = "pass a file as weights",
    path: Path | None = None,
) -> Path:
    """Return the file at `url`, downloaded unless it is in the cache.

    Args:
        url: address of the file.
        sha256_prefix: first digits of its SHA-256.
        timeout: seconds without an answer before giving up.
        instead: alternative to downloading, for the message.
        path: the file in the cache; None names it as the URL does.

    Raises:
        UserError: the download failed or its hash is wrong; says where to put a file downloaded by hand.
    """
    path = cache_folder() / url.rsplit("/", 1)[-1] if path is None else path
    if path.exists():
        if _sha256(path).startswith(sha256_prefix):
            return path
        log.warning("%s: its SHA-256 does not begin with %s; downloading it again", path, sha256_prefix)
    try:
        with atomic_write(path) as temporary:
            with open(temporary, "wb") as file, progress() as bar:
                task = bar.add_task(path.name, total=None)

                def shown(count: int, total: int | None) -> None:
                    bar.update(task, total=total, advance=count)

                blocks = download(url, limit=MAX_BYTES, answer_timeout=timeout, progress=shown)
                file.writelines(blocks)
            if not _sha256(temporary).startswith(sha256_prefix):
                raise UserError(f"the download has another SHA-256 than {sha256_prefix}...; try again")
    except UserError as error:
        address = shown_url(url)
        raise UserError(
            f"cannot download {address} ({str(error).removeprefix(f'{address}: ')}); download it by hand, then put it"
            f" at {path} or {instead}"
        ) from None
    return path


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
