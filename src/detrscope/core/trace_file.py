"""Write and read traces: one safetensors file, with everything that is not a tensor as JSON in its header."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import fields
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
from detrscope.core.edits import Bias, Gain, KeyBias, Swap
from detrscope.core.errors import WRONG_PATH, UserError
from detrscope.core.files import atomic_write
from detrscope.core.geometry import Geometry
from detrscope.core.json_schema import short_repr, type_name
from detrscope.core.model_card import ModelCard
from detrscope.core.packing import check_fields, pack, pack_own_storage, unpack
from detrscope.core.records import DeformableRecord, DenseRecord, Gradient
from detrscope.core.text_files import parse_json
from detrscope.core.trace_data import TraceData
from detrscope.core.trace_validation import find_problem
from detrscope.core.types import Masks, Regions, Target, Windows

HEADER, CHECKPOINT_HEADER = "detrscope.trace", "detrscope"
VERSION = 1
TABLE_ROW = 66  # mean bytes of a tensor's type, shape and offsets in the header
CLASSES: dict[str, type] = {
    c.__name__: c
    for c in (
        Bias,
        DeformableRecord,
        DenseRecord,
        Gain,
        Geometry,
        Gradient,
        KeyBias,
        Masks,
        Regions,
        Swap,
        Target,
        Windows,
    )
}
EXACT_PIXELS = 1 << 20  # up to this size the original is stored as PNG, above as JPEG of quality 95
MAX_PIXELS = 1 << 28  # of an original: four times what cameras have
IMAGE_FORMATS = ("PNG", "JPEG")  # as `save_trace` writes; Pillow starts other programs for some formats
UNPACKED = ("card", "original")  # fields with a form of their own in the file
HALF_PREFIXES = ("records/", "features/", "gradients/", "masks/")
EXACT_SUFFIXES = ("/points", "/reference")  # 11 bits would move a sampling point by a tenth of a cell


def save_trace(trace: TraceData, path: str | Path, *, half: bool = False) -> Path:
    """Write a trace, whole or not at all.

    Tensors keep the type they were computed in (float32, or the model's bfloat16); with `half`, records, features and
    gradients are float16, except sampling and reference points.

    Raises:
        UserError: the path cannot be written to.
        OSError: writing failed, such as on a full disk.
    """
    path = Path(path)
    tensors, header = _contents(trace, half)
    try:
        with atomic_write(path) as temporary:
            save_file(pack_own_storage(tensors), temporary, metadata={HEADER: header, "format": "pt"})
    except OSError as error:
        if error.errno not in WRONG_PATH:
            raise
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path


def trace_bytes(trace: TraceData, *, half: bool = False) -> int:
    """Return the approximate size of a trace's file in bytes, without writing it."""
    tensors, header = _contents(trace, half)
    table = sum(len(name) + TABLE_ROW for name in tensors)
    return sum(tensor.nbytes for tensor in tensors.values()) + len(json.dumps(header)) + table


def _contents(trace: TraceData, half: bool) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a trace's file, by name, and everything else as JSON."""
    tensors: dict[str, Tensor] = {}
    tree = {
        f.name: pack(getattr(trace, f.name), f.name, tensors) for f in fields(trace) if f.name not in UNPACKED
    }
    tree["card"] = trace.card.to_json()
    if trace.original is not None:
        tensors["original"] = _encode(trace.original)
    if half:
        tensors = {name: _halved(name, tensor) for name, tensor in tensors.items()}
    return tensors, json.dumps({"version": VERSION, "by": f"detrscope {__version__}", "trace": tree})


def load_trace(path: str | Path) -> TraceData:
    """Read a trace.

    Raises:
        UserError: missing, truncated, not a trace, of another format version, or inconsistent.
    """
    path = Path(path)
    if not exists(path):
        raise UserError(f"{path}: no such trace file")
    if not isfile(path):
        raise UserError(f"{path}: not a trace: expected a file")  # reading a pipe or device might not end
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tree = _read_header(metadata)
            tensors = {name: _to_float32(file.get_tensor(name)) for name in list(file.keys())}
        return _build(tree, tensors)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a trace, or damaged or cut short ({error})") from None


def _read_header(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the JSON of the header, checked to be a trace of this format version."""
    if HEADER not in metadata:
        kind = "a model's checkpoint" if CHECKPOINT_HEADER in metadata else "another safetensors file"
        raise UserError(f"not a trace but {kind}; `detector.trace(...).save(...)` writes traces")
    try:
        header = parse_json(metadata[HEADER], "")
    except UserError as error:
        raise UserError(f"damaged: its header cannot be read ({str(error).lstrip(': ')})") from None
    if not isinstance(header, dict) or not {"version", "trace"} <= header.keys():
        raise UserError("damaged: its header cannot be read")
    version, tree = header["version"], header["trace"]
    if unknown := header.keys() - {"version", "by", "trace"}:
        raise UserError(f"has a part '{min(unknown)}' that is not known to this version")
    if version != VERSION:
        by = short_repr(header.get("by", "another version")).strip("'")
        raise UserError(
            f"written by {by} in format {short_repr(version)}; this version reads format {VERSION}"
        )
    if not isinstance(tree, dict):
        raise UserError(f"damaged: expected an object, found {type_name(tree)}")
    return tree


def _build(tree: dict[str, Any], tensors: dict[str, Tensor]) -> TraceData:
    original = tensors.pop("original", None)
    known = {f.name for f in fields(TraceData)}
    if unknown := tree.keys() - known:
        raise UserError(f"has a part '{min(unknown)}' that is not known to this version")
    try:
        parts = {
            name: unpack(value, tensors, CLASSES) for name, value in tree.items() if name not in UNPACKED
        }
        parts["card"] = ModelCard.from_json(tree.get("card"), "card")
        parts["original"] = None if original is None else _decode(original)
        try:
            check_fields(TraceData, parts, "the trace")
        except UserError as error:
            raise UserError(f"its parts do not fit together ({error})") from None
        trace = TraceData(**parts)
    except UserError as error:
        raise UserError(f"damaged: {error}") from None
    if problem := find_problem(trace):
        raise UserError(f"damaged: {problem}")
    return trace


def _halved(name: str, tensor: Tensor) -> Tensor:
    fits = name.startswith(HALF_PREFIXES) and not name.endswith(EXACT_SUFFIXES)
    return tensor.half() if fits and tensor.dtype == torch.float32 else tensor


def _to_float32(tensor: Tensor) -> Tensor:
    """Return a float16 tensor in float32, in which maps are computed."""
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _encode(image: Tensor) -> Tensor:
    """Return uint8 [3, H, W] as the bytes of an image file."""
    buffer = io.BytesIO()
    encoded = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    if image.shape[1] * image.shape[2] <= EXACT_PIXELS:
        encoded.save(buffer, format="PNG", compress_level=1)
    else:
        encoded.save(buffer, format="JPEG", quality=95)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _decode(data: Tensor) -> Tensor:
    """Return the image, uint8 [3, H, W], in the bytes of an image file.

    Raises:
        UserError: it cannot be decoded, or is too large.
    """
    if data.dtype != torch.uint8 or data.dim() != 1:
        raise UserError(f"original: expected bytes, found {data.dtype} {list(data.shape)}")
    try:
        with Image.open(io.BytesIO(data.numpy().tobytes()), formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"original: {image.width} x {image.height} pixels, too many")
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except UserError:
        raise
    except Exception as error:  # decoders raise anything on damaged files
        raise UserError(f"original: not an image ({type(error).__name__})") from None
