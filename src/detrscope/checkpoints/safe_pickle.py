"""Read pickled checkpoints without running anything that they hold."""

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
    """In place of a harmless object beside the weights, such as a numpy scalar: it keeps and does nothing."""

    def __new__(cls, *args: object, **keywords: object) -> UnsupportedObject:
        """Take and forget whatever the object was made of."""
        return super().__new__(cls)

    def __init__(self, *args: object, **keywords: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Forget the state too."""


# Objects that training scripts store beside the weights: read as `UnsupportedObject`, never imported or run.
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
    """The content of a `.pth`, `.pt`, `.ckpt` or `.bin` file, tensors on the CPU.

    Read with `weights_only`: besides tensors and plain data an argparse.Namespace is let in, and what stands in
    `BESIDE_WEIGHTS` as an empty `UnsupportedObject`. torch also lets in what the user has given to
    `torch.serialization.add_safe_globals`.

    Raises:
        UserError: unreadable, packed to unfold in memory, or holding other objects, which are named with what to do.
    """
    _refuse_bombs(path)
    try:
        with torch.serialization.safe_globals(SAFE):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle makes torch's reader stumble over whatever comes
        raise UserError(f"{path}: not a readable PyTorch checkpoint ({_reason(error)})") from None


def _refuse_bombs(path: Path) -> None:
    """Torch stores tensors as they are; an archive that is larger inside than outside was not written by it.

    Raises:
        UserError: it is one, or cannot be opened.
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
    """Reasons of torch run over a page; the first sentence, or what an unpickling refused and the way out."""
    text = str(error).strip()
    if isinstance(error, pickle.UnpicklingError):
        if found := re.search(r"Unsupported global: GLOBAL (\S+)|unsupported GLOBAL (\S+)", text):
            name = found[1] or found[2]
            return (
                f"it holds objects other than tensors, which could run code when loaded: {name}; save the weights"
                " alone, torch.save(model.state_dict(), FILE), or, where you trust it, allow it with"
                f" torch.serialization.add_safe_globals([{name}])"
            )
        if "unrecognized function" in text or "Can only" in text:
            return "it holds objects other than tensors, which could run code when loaded; save the weights alone"
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    first = (text or type(error).__name__).splitlines()[0]
    return first.split(". ")[0][:120]
