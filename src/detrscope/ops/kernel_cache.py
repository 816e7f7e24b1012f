"""Where compiled kernels are kept: one folder per user, across processes, environments and re-installations.

numba keeps compiled code beside the source by default and compiles anew whenever the file is installed again. Here the
key is what the kernels consist of: the text of their sources. numba adds its own version and the CPU to it.
"""

from __future__ import annotations

import hashlib
import time
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import caching, ccallback

from detrscope.console import log
from detrscope.core.folders import cache_folder
from detrscope.ops import deformable_kernel, lanes

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
        base = Path(numba.config.CACHE_DIR) if numba.config.CACHE_DIR else cache_folder()
        return str(base / "kernels" / fingerprint())

    def get_source_stamp(self) -> str:
        """What makes kept code stale."""
        return fingerprint()

    def get_disambiguator(self) -> str:
        """Part of the file's name."""
        return ""


class _CacheImpl(caching.CompileResultCacheImpl):
    _locator_classes = [UserFolder]


class _Cache(caching.FunctionCache):
    _impl_class = _CacheImpl


class Kernel(ccallback.CFunc):
    """A C function of one job, compiled by numba, or loaded where it was compiled before.

    Args:
        source: the Python function.
        signature: of the C function.
        name: what the log calls it.
    """

    def __init__(self, source: Any, signature: Any, name: str) -> None:
        super().__init__(source, (signature.args, signature.return_type), {}, {"error_model": "numpy"})
        self.name = name
        try:
            self._cache = _Cache(source)
        except (OSError, RuntimeError) as problem:
            log.info("compiled kernels cannot be kept for the next process: %s", problem)
        try:
            self.compile()
        except OSError as problem:  # such as a full disk, met when the compiled code was to be written
            log.info("compiled kernels cannot be kept for the next process: %s", problem)
            self._cache = ccallback.NullCache()
            self.compile()

    @property
    def was_kept(self) -> bool:
        """Whether it was loaded and not compiled."""
        return bool(self._cache_hits)

    def _compile_uncached(self) -> Any:
        log.info("compiling the %s for this CPU (once; some seconds)", self.name)
        started = time.perf_counter()
        result = super()._compile_uncached()
        log.info("compiled the %s in %.1f s", self.name, time.perf_counter() - started)
        return result
