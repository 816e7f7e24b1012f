"""A lock on a folder: one process at a time writes there. It ends with the process, however that ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detrscope.core.errors import UserError

NAME = ".lock"
_held: set[str] = set()  # by this process: a lock of POSIX does not keep out its own process


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock of a folder, which is made, in the `with`.

    Args:
        folder: to be locked.
        what: what holds the lock, for the message, such as "a training".

    Raises:
        UserError: another process, or this one, holds it.
    """
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    key = os.path.realpath(folder)
    descriptor = None if key in _held else _take(folder / NAME)
    if descriptor is None:
        raise UserError(f"{folder}: {what} is running in it; wait for its end, or choose another folder")
    _held.add(key)
    try:
        yield
    finally:
        _held.discard(key)
        (folder / NAME).unlink(missing_ok=True)
        os.close(descriptor)
        if new and not any(folder.iterdir()):
            folder.rmdir()


def _take(path: Path) -> int | None:
    """Open and lock a file; None where another process holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _lock(descriptor):
            os.close(descriptor)
            return None
        try:  # whoever held it before may have removed the file in between: then it is not the one others find
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file; False where another process holds it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return _take_on_windows(descriptor)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not inherited by the loader's processes
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks, as some networks have
        return True
    return True


def _take_on_windows(descriptor: int) -> bool:
    import msvcrt

    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError:
        return False
    return True
