"""A trace as one file: safetensors, with everything that is not a tensor as JSON in its header."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from os.path import exists, isfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from detrscope._version import __version__
from detrscope.core.edits import Bias, Gain, Swap
from detrscope.core.errors import WRONG_PATH, UserError
from detrscope.core.files import atomic_write
from detrscope.core.geometry import Geometry
from detrscope.core.json_schema import parse_json, short_repr, type_name
from detrscope.core.model_card import ModelCard
from detrscope.core.packing import check_fields, own_storage, pack, unpack
from detrscope.core.records import DeformableRecord, DenseRecord, Gradient
from detrscope.core.trace_data import TraceData
from detrscope.core.trace_validation import find_problem
from detrscope.core.types import Regions, Target

HEADER, CHECKPOINT_HEADER = "detrscope.trace", "detrscope"
VERSION = 1
TABLE_ROW = 66  # bytes that a tensor's name, type, shape and place take in a file, on average
CLASSES: dict[str, type] = {
    c.__name__: c
    for c in (Bias, DeformableRecord, DenseRecord, Gain, Geometry, Gradient, Regions, Swap, Target)
}
EXACT_PIXELS = 1 << 20  # the original is kept exactly up to this many pixels, above as a JPEG of quality 95
MOST_PIXELS = 1 << 28  # of an original: four times what cameras have
PICTURES = ("PNG", "JPEG")  # what `save_trace` writes; other formats may start other programs
BY_ITSELF = ("card", "original")  # fields that are not packed with the rest
MAY_BE_HALF = ("records/", "features/", "gradients/")
EXACT_ALWAYS = ("/points", "/reference")  # 11 bits would move a sampling point by a tenth of a cell


def save_trace(trace: TraceData, path: str | Path, *, half: bool = False) -> Path:
    """Write a trace, whole or not at all.

    Tensors are kept in the type they were computed in (float32, or the model's bfloat16); with `half`, records,
    features and gradients are float16, but for places.

    Raises:
        UserError: nothing can be written at this place.
        OSError: writing failed, such as on a full disk.
    """
    path = Path(path)
    tensors, header = _contents(trace, half)
    try:
        with atomic_write(path) as temporary:
            save_file(own_storage(tensors), temporary, metadata={HEADER: header, "format": "pt"})
    except OSError as error:
        if error.errno not in WRONG_PATH:
            raise
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path


def trace_bytes(trace: TraceData, *, half: bool = False) -> int:
    """Return about how large the file of a trace will be, without writing it."""
    tensors, header = _contents(trace, half)
    table = sum(len(name) + TABLE_ROW for name in tensors)
    return sum(tensor.nbytes for tensor in tensors.values()) + len(json.dumps(header)) + table


def _contents(trace: TraceData, half: bool) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a trace's file, by name, and everything else as JSON."""
    tensors: dict[str, Tensor] = {}
    tree = {
        f.name: pack(getattr(trace, f.name), f.name, tensors)
        for f in fields(trace)
        if f.name not in BY_ITSELF
    }
    tree["card"] = trace.card.to_json()
    if trace.original is not None:
        tensors["original"] = _encoded(trace.original)
    if half:
        tensors = {name: _halved(name, tensor) for name, tensor in tensors.items()}
    return tensors, json.dumps({"version": VERSION, "by": f"detrscope {__version__}", "trace": tree})


def load_trace(path: str | Path) -> TraceData:
    """Read a trace.

    Raises:
        UserError: missing, truncated, foreign, newer than this version, or inconsistent; one line that names the file.
    """
    path = Path(path)
    if not exists(path):
        raise UserError(f"{path}: no such trace file")
    if not isfile(path):
        raise UserError(f"{path}: not a trace: expected a file")  # reading a pipe or device would not end
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tree = _tree_of(metadata)
            names = list(file.keys())
            tensors = {name: _exact(file.get_tensor(name)) for name in names}
        return _built(tree, tensors)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a trace, or damaged or cut short ({error})") from None


def _tree_of(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The JSON of the header, if it is a trace of a version that is known."""
    if HEADER not in metadata:
        what = (
            "a model's checkpoint" if CHECKPOINT_HEADER in metadata else "a safetensors file of somebody else"
        )
        raise UserError(f"not a trace but {what}; `detector.trace(...).save(...)` writes traces")
    try:
        header = parse_json(metadata[HEADER], "")
    except UserError as error:
        raise UserError(f"damaged: its header cannot be read ({str(error).lstrip(': ')})") from None
    if not isinstance(header, dict) or not {"version", "trace"} <= header.keys():
        raise UserError("damaged: its header cannot be read")
    found, tree = header["version"], header["trace"]
    if unknown := header.keys() - {"version", "by", "trace"}:
        raise UserError(f"has a part '{min(unknown)}' that is not known to this version")
    if found != VERSION:
        by = short_repr(header.get("by", "another version")).strip("'")
        raise UserError(f"written by {by} in format {short_repr(found)}; this version reads format {VERSION}")
    if not isinstance(tree, dict):
        raise UserError(f"damaged: expected an object, found {type_name(tree)}")
    return tree


def _built(tree: dict[str, Any], tensors: dict[str, Tensor]) -> TraceData:
    original = tensors.pop("original", None)
    known = {f.name for f in fields(TraceData)}
    if unknown := tree.keys() - known:
        raise UserError(f"has a part '{min(unknown)}' that is not known to this version")
    try:
        parts = {
            name: unpack(value, tensors, CLASSES) for name, value in tree.items() if name not in BY_ITSELF
        }
        parts["card"] = ModelCard.from_json(tree.get("card"), "card")
        try:
            check_fields(TraceData, parts, "the trace")
        except UserError as error:
            raise UserError(f"its parts do not fit together ({error})") from None
        trace = TraceData(**parts)
        if original is not None:
            trace = replace(trace, original=_decoded(original))
    except UserError as error:
        raise UserError(f"damaged: {error}") from None
    if problem := find_problem(trace):
        raise UserError(f"damaged: {problem}")
    return trace


def _halved(name: str, tensor: Tensor) -> Tensor:
    fits = name.startswith(MAY_BE_HALF) and not name.endswith(EXACT_ALWAYS)
    return tensor.half() if fits and tensor.dtype == torch.float32 else tensor


def _exact(tensor: Tensor) -> Tensor:
    """Numbers of eleven bits are computed with in 24."""
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _encoded(image: Tensor) -> Tensor:
    """uint8 [3, H, W] as the bytes of a picture file."""
    buffer = io.BytesIO()
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    if image.shape[1] * image.shape[2] <= EXACT_PIXELS:
        picture.save(buffer, format="PNG", compress_level=1)
    else:
        picture.save(buffer, format="JPEG", quality=95)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _decoded(data: Tensor) -> Tensor:
    """The original image out of the bytes of a picture file.

    Raises:
        UserError: it is none, or too large.
    """
    if data.dtype != torch.uint8 or data.dim() != 1:
        raise UserError(f"original: expected bytes, found {data.dtype} {list(data.shape)}")
    try:
        with Image.open(io.BytesIO(data.numpy().tobytes()), formats=PICTURES) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise UserError(f"original: {picture.width} x {picture.height} pixels, too many")
            return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    except UserError:
        raise
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        raise UserError(f"original: not a picture ({type(error).__name__})") from None
