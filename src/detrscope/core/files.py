"""Files written whole or not at all."""

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
STEM_BYTES = 60  # of the name of a temporary file, which has something random behind it
# What a disk, and not a program, says: these come from writing whatever the words of the library are.
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EPIPE})
_IN_RUST = re.compile(r"os error (\d+)")  # safetensors
_IN_TORCH = ("PytorchStreamWriter", "unexpected pos")  # torch.save tells no reason


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
        if (told := _of_writing(error, path, temporary)) is None:
            raise
        raise told from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def sweep(folder: Path, names: Iterable[str]) -> int:
    """Remove temporary files that a killed process has left in a folder beside files of some names; return how many.

    To be called where nobody else writes to these files.
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


def check_folder(path: str | Path) -> None:
    """Refuse an output folder that cannot be made, before any work is done for it; nothing is left behind.

    Raises:
        UserError: it is a file, a part of its path is one, is too long, cannot be made, or is read-only.
    """
    if _check_writable(Path(path)) and not Path(path).is_dir():
        raise UserError(f"{path}: is a file; --out must name a folder")


def check_file(path: str | Path) -> None:
    """Refuse an output file that cannot be written, before any work is done for it; nothing is left behind.

    Raises:
        UserError: it is a folder, or see `check_folder`.
    """
    if _check_writable(Path(path)) and Path(path).is_dir():
        raise UserError(f"{path}: is a folder; give the name of a file to write")


def _check_writable(path: Path) -> bool:
    """Refuse a place that nothing can be written to; return whether something is there already."""
    try:
        there = path.absolute()  # raises where the working directory is gone
        while not there.exists() and there != there.parent:
            there = there.parent
        if there == path.absolute() and there.is_file():
            there = there.parent
        if there.is_dir():
            tempfile.TemporaryFile(dir=there).close()  # the file system answers: root passes every permission
            _check_names(path, there)
        elif there != path.absolute():
            raise NotADirectoryError(errno.ENOTDIR, f"{there} is a file", str(path))
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in WRONG_PATH:
            raise
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be written ({reason}); choose another place to write to") from None
    return path.exists()


def _check_names(path: Path, there: Path) -> None:
    """Refuse names of folders and files that the file system of `there` does not take."""
    longest = os.pathconf(there, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    for name in path.parts:
        if "\0" in name:
            raise ValueError("a name with a NUL character")
        if len(os.fsencode(name)) > longest:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path))


def _shortened(stem: str) -> str:
    return os.fsencode(stem)[:STEM_BYTES].decode("utf-8", "ignore")


def _of_writing(error: Exception, path: Path, temporary: Path | None) -> OSError | None:
    """Return the error as an OSError of `path`, where writing raised it; None for any other."""
    number = None
    if isinstance(code := getattr(error, "errno", None), int):  # FFmpeg's errors are not all of them OSErrors
        place = getattr(error, "filename", None)
        ours = place in (None, str(temporary), str(path)) or temporary is None
        if ours and (code in DISK_ERRORS or (place is not None and isinstance(error, OSError))):
            number = code
    elif found := _IN_RUST.search(str(error)):
        number = int(found.group(1))
    elif isinstance(error, RuntimeError) and any(word in str(error) for word in _IN_TORCH):
        number = _reason(path, temporary)
    return None if number is None else OSError(number, os.strerror(number), str(path))


def _reason(path: Path, temporary: Path | None) -> int:
    """Return why writing failed, where the library does not tell: no space, the limit of file sizes, or neither."""
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
