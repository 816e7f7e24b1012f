"""Cache of compiled kernels: one folder per user, shared by processes, environments and installations.

By default numba stores compiled code beside the source and compiles again whenever the file is installed again. Here
the key is the text of the kernels' sources; numba adds its own version and the CPU.
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
from detrscope.ops.kernels import deformable_numba_kernel, simd

SOURCES = (deformable_numba_kernel, simd)


@cache
def kernel_fingerprint() -> str:
    """Return a hash of the sources of the compiled code."""
    digest = hashlib.sha256(numba.__version__.encode())
    for module in SOURCES:
        path = Path(module.__file__ or "")
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()[:16]


class UserFolder(caching._CacheLocator):
    """Numba cache locator in the user's cache folder, by fingerprint."""

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> UserFolder | None:
        """Return the locator, or None where the folder cannot be written."""
        locator = cls()
        ensure: Any = locator.ensure_cache_path  # numba has no types
        try:
            ensure()
        except (OSError, RuntimeError):
            return None
        return locator

    def get_cache_path(self) -> str:
        """Return the folder, numba's own where the environment sets one."""
        base = os.environ.get("NUMBA_CACHE_DIR") or cache_folder()
        return str(Path(base) / "kernels" / kernel_fingerprint())

    def get_source_stamp(self) -> str:
        """Return the stamp by which cached code is stale."""
        return kernel_fingerprint()

    def get_disambiguator(self) -> str:
        """Return no extra part of the file's name."""
        return ""


class _CacheImpl(caching.CompileResultCacheImpl):
    def __init__(self, py_func: Any) -> None:
        locators: list[Any] = [UserFolder]
        self._locator_classes = locators
        initialise: Any = super().__init__
        initialise(py_func)


class _KernelCache(caching.FunctionCache):
    """Cache of one kernel's code; logs compilations."""

    _impl_class = _CacheImpl
    started = 0.0

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the cached code, or None, upon which numba compiles."""
        load: Any = super().load_overload
        cached = load(sig, target_context)
        if cached is None:
            log.info("compiling %s for this CPU (once; some seconds)", self._name)
            self.started = time.perf_counter()
        return cached

    def save_overload(self, sig: Any, data: Any) -> None:
        """Cache compiled code, where the folder can be written."""
        save: Any = super().save_overload
        log.info("compiled %s in %.1f s", self._name, time.perf_counter() - self.started)
        try:
            save(sig, data)
        except OSError as problem:
            log.info("compiled kernels cannot be cached for the next process: %s", problem)


def compile_kernel(source: Any, signature: Any) -> Any:
    """Compile a Python function to a C function, or load it from the cache (`cache_hits` is 1 then).

    Args:
        source: the Python function.
        signature: numba signature of the C function.
    """
    function: Any = ccallback.CFunc(
        source, (signature.args, signature.return_type), {}, {"error_model": "numpy"}
    )
    cache_of: Any = _KernelCache
    try:
        function._cache = cache_of(source)
    except RuntimeError as problem:  # numba's error where no folder can be written
        log.info("compiled kernels cannot be cached for the next process: %s", problem)
    function.compile()
    return function
