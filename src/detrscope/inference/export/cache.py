"""Converted models that are kept, so that a checkpoint is converted for an engine only once."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from detrscope._version import __version__
from detrscope.blocks.path import DetectionTransformer
from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.core.files import cache_folder
from detrscope.core.model_card import ModelCard
from detrscope.inference.export.files import writing_onnx
from detrscope.inference.export.onnx_graph import OPSET, build_onnx
from detrscope.inference.onnx_engine import read_onnx

if TYPE_CHECKING:
    import onnx

FOLDER = "converted"
KEPT = 8  # files; the oldest ones are removed
REVISION = 1  # of the conversion


def convert_cached(model: DetectionTransformer, card: ModelCard) -> onnx.ModelProto:
    """Return the ONNX graph of a model with attention, from the cache where it was converted before.

    Args:
        model: as loaded, in float32 on the CPU; changed where it is converted.
        card: its card.

    Raises:
        UserError: a package is missing.
    """
    folder = cache_folder() / FOLDER
    path = folder / f"{card.variant}-{_key(model, card)}.onnx"
    if path.is_file():
        try:
            graph = read_onnx(path)
        except UserError as error:
            log.warning("converting %s again: %s", card.variant, error)
        else:
            with suppress(OSError):  # a cache that is read-only
                os.utime(path)  # used last
            return graph
    log.info("converting %s to ONNX once: up to two minutes for large models", card.variant)
    graph = build_onnx(model, card, attention=True)
    try:
        with writing_onnx(graph, path):
            pass
        _remove_old(folder)
    except OSError as error:
        log.warning("the converted model is not kept: %s", error)
    return graph


def _key(model: DetectionTransformer, card: ModelCard) -> str:
    """Return a hash of everything that the converted graph depends on."""
    versions = {"detrscope": __version__, "torch": torch.__version__, "opset": OPSET, "revision": REVISION}
    digest = hashlib.sha256(json.dumps([versions, card.to_json()], sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _remove_old(folder: Path) -> None:
    files = sorted(folder.glob("*.onnx"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[KEPT:]:
        log.debug("removing %s, the converted model that was not used for longest", path.name)
        path.unlink(missing_ok=True)
