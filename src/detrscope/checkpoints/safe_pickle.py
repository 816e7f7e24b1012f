"""Read pickled checkpoints without executing code from them."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from detrscope.core.errors import UserError

UNPACKED_SLACK = 1 << 20  # bytes by which an archive's content may exceed the file: names and padding


class UnsupportedObject:
    """Placeholder of a harmless object beside the weights, such as a numpy scalar; discards its state."""

    def __new__(cls, *args: object, **keywords: object) -> UnsupportedObject:
        """Ignore all arguments."""
        return super().__new__(cls)

    def __init__(self, *args: object, **keywords: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Ignore the state."""


# Objects that training scripts store beside the weights: read as `UnsupportedObject`, never imported or executed.
BESIDE_WEIGHTS = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray", "numpy.bool_", "numpy.float64", "numpy.float32", "numpy.int64"),
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")
    ),
    *("datetime.datetime", "datetime.timedelta", "datetime.date", "uuid.UUID"),
    "lightning.fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig")),
    *(f"omegaconf.base.{name}" for name in ("ContainerMetadata", "Metadata")),
    *(
        f"omegaconf.nodes.{name}"
        for name in ("AnyNode", "StringNode", "IntegerNode", "FloatNode", "BooleanNode")
    ),
)
SAFE: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    *((UnsupportedObject, name) for name in BESIDE_WEIGHTS),
]


def read_pickle(path: Path) -> object:
    """Return the content of a `.pth`, `.pt`, `.ckpt` or `.bin` file, tensors on the CPU.

    Read with `weights_only`: tensors, plain data and argparse.Namespace are allowed; objects of `BESIDE_WEIGHTS` become
    an empty `UnsupportedObject`. torch also allows what the user has passed to `torch.serialization.add_safe_globals`.

    Raises:
        UserError: unreadable, a decompression bomb, or holding other objects; names them and what to do.
    """
    _refuse_bombs(path)
    try:
        with torch.serialization.safe_globals(SAFE):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle makes torch's reader raise anything
        raise UserError(f"{path}: not a readable PyTorch checkpoint ({_reason(error)})") from None


def _refuse_bombs(path: Path) -> None:
    """Refuse archives that unpack to more than their size; torch stores tensors without compression.

    Raises:
        UserError: it is a decompression bomb, or cannot be opened.
    """
    try:
        if path.is_dir():
            raise UserError(f"{path}: not a readable PyTorch checkpoint (it is a folder)")
        size = path.stat().st_size
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(f"{path}: not a readable PyTorch checkpoint ({error})") from None
    if unpacked > size + UNPACKED_SLACK:
        raise UserError(
            f"{path}: {size:,} bytes that unpack to {unpacked:,}; torch.save does not compress: unpack the file and"
            " save its weights again"
        )


def _reason(error: Exception) -> str:
    """Shorten torch's page-long reason to its first sentence, or to the refused object and what to do."""
    text = str(error).strip()
    if isinstance(error, pickle.UnpicklingError):
        if refused := re.search(r"Unsupported global: GLOBAL (\S+)|unsupported GLOBAL (\S+)", text):
            name = refused[1] or refused[2]
            return (
                f"it holds objects other than tensors, which could run code when loaded: {name}; save the weights"
                " alone, torch.save(model.state_dict(), FILE), or, where you trust it, allow it with"
                f" torch.serialization.add_safe_globals([{name}])"
            )
        if "unrecognized function" in text or "Can only" in text:
            return "it holds objects other than tensors, which could run code when loaded; save the weights alone"
    if isinstance(error, MemoryError):
        return "loading it needs more memory than is available"
    first = (text or type(error).__name__).splitlines()[0]
    return first.split(". ")[0][:120]
