"""Atomic file writes, checks of output paths, and the cache folder."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from detrscope.core.errors import WRONG_PATH, UserError

BLOCK = 1 << 16  # bytes: how near to the limit a file may end that could not grow beyond it
STEM_BYTES = 60  # of the name of a temporary file, which ends in random letters
# Errors of the disk: whatever library raises them and however it words them, they come from writing.
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EPIPE})
_IN_RUST = re.compile(r"os error (\d+)")  # safetensors
_IN_TORCH = ("PytorchStreamWriter", "unexpected pos")  # torch.save gives no error number


def cache_folder() -> Path:
    """Return `$DETRSCOPE_CACHE`, else `~/.cache/detrscope` (under `$XDG_CACHE_HOME` where set). It may not exist."""
    if folder := os.environ.get("DETRSCOPE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "detrscope"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; renamed when the block succeeds, removed when it does not.

    Raises:
        OSError: the file cannot be written; it names `path` and not the temporary file.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        is_device = path.exists() and not path.is_file()  # such as /dev/stdout: never renamed over
        folder = None if is_device else path.parent
        prefix = f".{_shortened(path.stem)}."
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=folder)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        if is_device:
            with temporary.open("rb") as written, path.open("wb") as device:
                shutil.copyfileobj(written, device)
            return
        os.chmod(temporary, 0o644)
        with temporary.open("rb") as written:  # else the name may reach the disk before the content does
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except Exception as error:
        if (disk_error := _disk_error(error, path, temporary)) is None:
            raise
        raise disk_error from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_temporary_files(folder: Path, names: Iterable[str]) -> int:
    """Remove the temporary files that a killed process left beside files of these names; return how many.

    No other process may be writing these files.
    """
    count = 0
    for name in names:
        path = Path(name)
        leftover = re.compile(
            rf"\.{re.escape(_shortened(path.stem))}\.[a-z0-9_]{{8}}{re.escape(path.suffix)}"
        )
        for other in folder.iterdir() if folder.is_dir() else ():
            if leftover.fullmatch(other.name) and other.is_file():
                other.unlink(missing_ok=True)
                count += 1
    return count


def check_writable_folder(path: str | Path) -> None:
    """Check that an output folder can be made, before any work is done for it; nothing is left behind.

    Raises:
        UserError: it is a file, a part of its path is one, is too long, cannot be made, or is read-only.
    """
    if _check_writable(Path(path)) and not Path(path).is_dir():
        raise UserError(f"{path}: is a file; out must name a folder")


def check_writable_file(path: str | Path) -> None:
    """Check that an output file can be written, before any work is done for it; nothing is left behind.

    Raises:
        UserError: it is a folder, or see `check_writable_folder`.
    """
    if _check_writable(Path(path)) and Path(path).is_dir():
        raise UserError(f"{path}: is a folder; give the name of a file to write")


def _check_writable(path: Path) -> bool:
    """Check that a path can be written to; return whether it exists."""
    try:
        nearest = path.absolute()  # raises where the working directory is gone
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
        if nearest == path.absolute() and nearest.is_file():
            nearest = nearest.parent
        if nearest.is_dir():
            tempfile.TemporaryFile(
                dir=nearest
            ).close()  # checking permissions is not enough: root passes every check
            _check_names(path, nearest)
        elif nearest != path.absolute():
            raise NotADirectoryError(errno.ENOTDIR, f"{nearest} is a file", str(path))
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in WRONG_PATH:
            raise
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be written ({reason}); choose another path") from None
    return path.exists()


def _check_names(path: Path, folder: Path) -> None:
    """Check that the file system of an existing folder takes the names in a path."""
    longest = os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    for name in path.parts:
        if "\0" in name:
            raise ValueError("a name with a NUL character")
        if len(os.fsencode(name)) > longest:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path))


def _shortened(stem: str) -> str:
    return os.fsencode(stem)[:STEM_BYTES].decode("utf-8", "ignore")


def _disk_error(error: Exception, path: Path, temporary: Path | None) -> OSError | None:
    """Return the error as an OSError of `path`, where writing raised it; None for any other."""
    number = None
    if isinstance(code := getattr(error, "errno", None), int):  # FFmpeg's errors are not all of them OSErrors
        file = getattr(error, "filename", None)
        ours = file in (None, str(temporary), str(path)) or temporary is None
        if ours and (code in DISK_ERRORS or (file is not None and isinstance(error, OSError))):
            number = code
    elif match := _IN_RUST.search(str(error)):
        number = int(match.group(1))
    elif isinstance(error, RuntimeError) and any(word in str(error) for word in _IN_TORCH):
        number = _guess_reason(path, temporary)
    return None if number is None else OSError(number, os.strerror(number), str(path))


def _guess_reason(path: Path, temporary: Path | None) -> int:
    """Return the error number where the library gives none: no space, the limit of file sizes, or neither."""
    if hasattr(os, "statvfs") and os.statvfs(path.parent).f_bavail == 0:
        return errno.ENOSPC
    with suppress(ImportError, OSError):
        import resource  # not on Windows

        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if (
            temporary is not None
            and limit != resource.RLIM_INFINITY
            and temporary.stat().st_size >= limit - BLOCK
        ):
            return errno.EFBIG
    return errno.EIO
