"""Lock a folder, so that one process at a time writes to it. The system releases the lock when the process ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from detrscope.core.errors import UserError

NAME = ".lock"
_held: set[str] = set()  # locks of this process: a POSIX lock does not exclude the process that holds it


@contextmanager
def locked(folder: Path, purpose: str) -> Iterator[None]:
    """Hold the lock of a folder in the `with`; the folder is created.

    Args:
        folder: folder to lock.
        purpose: name of the work that holds the lock, for the message, such as "a training run".

    Raises:
        UserError: another process, or this one, holds it.
    """
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    key = os.path.realpath(folder)
    descriptor = None if key in _held else _take(folder / NAME)
    if descriptor is None:
        raise UserError(f"{folder}: {purpose} is running in it; wait for its end, or choose another folder")
    _held.add(key)
    try:
        yield
    finally:
        _held.discard(key)
        with suppress(OSError):  # of a folder that has become read-only; the lock ends with its descriptor
            (folder / NAME).unlink(missing_ok=True)
        os.close(descriptor)
        if new and not any(folder.iterdir()):
            folder.rmdir()


def _take(path: Path) -> int | None:
    """Open and lock a file; return None where another process holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _lock(descriptor):
            os.close(descriptor)
            return None
        try:  # the holder before us may have removed the file: then other processes would lock another one
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file; return False where another process holds it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return _lock_on_windows(descriptor)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not inherited by the loader's processes
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks, as on some networks
        return True
    return True


def _lock_on_windows(descriptor: int) -> bool:
    import msvcrt

    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError:
        return False
    return True
