"""The runtime of a published page: onnxruntime-web's files, from its package, checked by hash."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from detrscope.core.errors import UserError, WorkFailed
from detrscope.core.files import atomic_write, cache_folder

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
ARCHIVE = f"{PACKAGE}-{VERSION}.tgz"
FILES = (
    *("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    *("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
)
MAX_FILE = 100 << 20  # bytes of a file in the package
FETCH_SECONDS = 600


def copy_runtime(out: Path, given: str | Path | None = None) -> None:
    """Write the runtime's files to a folder.

    Args:
        out: folder to write to.
        given: the package's archive, or a folder with its files; None fetches the package by npm, once, into the cache.

    Raises:
        UserError: the archive or folder is not there, lacks a file or is another version, or npm is not installed.
        WorkFailed: the package cannot be fetched.
    """
    source = Path(given) if given is not None else _cached()
    out.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        for name in FILES:
            if not (source / name).is_file():
                raise UserError(f"{source}: has no {name}; expected the dist folder of {PACKAGE} {VERSION}")
            with atomic_write(out / name) as temporary:
                shutil.copyfile(source / name, temporary)
        return
    _check(source)
    with tarfile.open(source) as archive:
        for name in FILES:
            member = archive.getmember(f"package/dist/{name}")
            content = archive.extractfile(member)
            if content is None or member.size > MAX_FILE:
                raise UserError(f"{source}: {name} is not a file of the expected size")
            with atomic_write(out / name) as temporary:
                temporary.write_bytes(content.read())


def _cached() -> Path:
    """Return the package's archive in the cache, fetched where it is not there."""
    folder = cache_folder() / "runtime"
    path = folder / ARCHIVE
    if path.is_file():
        return path
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"the page's runtime, {PACKAGE} {VERSION}, is fetched by npm, which is not installed; give its files with"
            " runtime=DIR"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        command = [npm, "pack", "--silent", f"{PACKAGE}@{VERSION}"]
        try:
            ran = subprocess.run(
                command, cwd=temporary, capture_output=True, text=True, timeout=FETCH_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise WorkFailed(f"{PACKAGE} {VERSION}: npm gave no answer in {FETCH_SECONDS} s") from None
        fetched = Path(temporary) / ARCHIVE
        if ran.returncode or not fetched.is_file():
            reason = (ran.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise WorkFailed(
                f"{PACKAGE} {VERSION}: cannot be fetched by npm ({reason}); give its files with runtime=DIR"
            )
        _check(fetched)
        fetched.replace(path)
    return path


def _check(path: Path) -> None:
    """Check that an archive is the package, by its hash.

    Raises:
        UserError: it is not there, or another file.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder; expected {ARCHIVE}, or a folder with its files")
    found = hashlib.sha512(path.read_bytes()).digest()
    if f"sha512-{base64.b64encode(found).decode()}" != INTEGRITY:
        raise UserError(f"{path}: not {PACKAGE} {VERSION} (its hash differs); delete it, or give another")
