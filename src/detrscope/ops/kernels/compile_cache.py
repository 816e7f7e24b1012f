"""Where compiled kernels are kept: one folder per user, across processes, environments and re-installations.

numba keeps compiled code beside the source by default and compiles anew whenever the file is installed again. Here the
key is what the kernels consist of: the text of their sources. numba adds its own version and the CPU to it.
"""

from __future__ import annotations

import hashlib
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import caching, ccallback

from detrscope.console import log
from detrscope.core.files import cache_folder
from detrscope.ops.kernels import deformable_numba_kernel as deformable_kernel
from detrscope.ops.kernels import simd as lanes

SOURCES = (deformable_kernel, lanes)


@cache
def fingerprint() -> str:
    """A hash of everything that the compiled code is made of."""
    digest = hashlib.sha256(numba.__version__.encode())
    for module in SOURCES:
        path = Path(module.__file__ or "")
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()[:16]


class UserFolder(caching._CacheLocator):
    """Tells numba to keep code in the user's cache folder, by fingerprint."""

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> UserFolder | None:
        """The locator, or None where the folder cannot be written."""
        locator = cls()
        try:
            locator.ensure_cache_path()
        except (OSError, RuntimeError):
            return None
        return locator

    def get_cache_path(self) -> str:
        """The folder: numba's own where the environment names one."""
        base = os.environ.get("NUMBA_CACHE_DIR") or cache_folder()
        return str(Path(base) / "kernels" / fingerprint())

    def get_source_stamp(self) -> str:
        """What makes kept code stale."""
        return fingerprint()

    def get_disambiguator(self) -> str:
        """Part of the file's name."""
        return ""


class _CacheImpl(caching.CompileResultCacheImpl):
    def __init__(self, py_func: Any) -> None:
        locators: list[Any] = [UserFolder]
        self._locator_classes = locators
        super().__init__(py_func)


class _KernelCache(caching.FunctionCache):
    """Kept code of one kernel; says when it has to be compiled."""

    _impl_class = _CacheImpl
    started = 0.0

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The kept code, or None: then numba compiles."""
        kept = super().load_overload(sig, target_context)
        if kept is None:
            log.info("compiling %s for this CPU (once; some seconds)", self._name)
            self.started = time.perf_counter()
        return kept

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled, where there is room for it."""
        log.info("compiled %s in %.1f s", self._name, time.perf_counter() - self.started)
        try:
            super().save_overload(sig, data)
        except OSError as problem:
            log.info("compiled kernels cannot be kept for the next process: %s", problem)


def compile_kernel(source: Any, signature: Any) -> Any:
    """A C function, compiled by numba or loaded where it was compiled before (`cache_hits` is 1 then).

    Args:
        source: the Python function.
        signature: numba's, of the C function.
    """
    made: Any = ccallback.CFunc(source, (signature.args, signature.return_type), {}, {"error_model": "numpy"})
    try:
        made._cache = _KernelCache(source)
    except RuntimeError as problem:  # numba's error where no folder can be written
        log.info("compiled kernels cannot be kept for the next process: %s", problem)
    made.compile()
    return made
