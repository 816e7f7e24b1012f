"""A trace as the page reads it: a JSON header and arrays behind it (`page/payload.js`).

Queries and keys are float16, sampling points 16-bit fixed-point numbers; the page computes the maps from them.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detrscope._version import __version__
from detrscope.core.mask_pixels import masks_of_queries
from detrscope.core.records import DeformableRecord, DenseRecord, Record
from detrscope.core.trace_data import TraceData

MAGIC, FORMAT = b"detrpage", 1
TOP_CLASSES = 5  # of each query and layer
LONGEST_SIDE = 1600  # pixels of the image on the page
JPEG_QUALITY = 88
MASK_SIDE = 256  # pixels of the longest side of a mask on the page
POINT_LOW, POINT_STEP = -1.0, 3.0 / 65535  # sampling points from -1 to 2 of their map's side
MAX_BYTES = 40_000_000  # of the records of an image in a file

ArrayType = Literal["f32", "f16", "u16", "u8", "i32"]
DTYPES: dict[ArrayType, type[np.generic]] = {
    "f32": np.float32,
    "f16": np.float16,
    "u16": np.uint16,
    "u8": np.uint8,
    "i32": np.int32,
}


@dataclass
class Arrays:
    """Arrays of a payload: those of one-byte and four-byte numbers first, then all of two-byte numbers."""

    infos: dict[str, dict[str, Any]] = field(default_factory=dict)
    plain: list[bytes] = field(default_factory=list)
    pairs: list[bytes] = field(default_factory=list)

    def add(self, name: str, values: np.ndarray, kind: ArrayType, **info: float) -> None:
        """Add an array; its place is known when all are added."""
        data = np.ascontiguousarray(values.astype(DTYPES[kind])).tobytes()
        where = self.pairs if kind in ("f16", "u16") else self.plain
        self.infos[name] = {"type": kind, "shape": list(values.shape), "part": len(where), **info}
        where.append(data + bytes(-len(data) % 4 if where is self.plain else 0))

    def placed(self) -> dict[str, dict[str, Any]]:
        """Return the infos with their offsets."""
        ends_plain = np.cumsum([0, *map(len, self.plain)]).tolist()
        ends_pairs = (np.cumsum([0, *map(len, self.pairs)]) + ends_plain[-1]).tolist()
        return {
            name: {key: value for key, value in info.items() if key != "part"}
            | {"offset": (ends_pairs if info["type"] in ("f16", "u16") else ends_plain)[info["part"]]}
            for name, info in self.infos.items()
        }


@dataclass(frozen=True)
class Payload:
    """Bytes of a payload.

    Attributes:
        header: magic number, length and JSON, and arrays of one-byte and four-byte numbers.
        pairs: arrays of two-byte numbers.
        left_out: sites whose records would have taken too much room.
    """

    header: bytes
    pairs: bytes
    left_out: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """Return everything as the page reads it."""
        return self.header + self.pairs

    def embedded(self) -> str:
        """Return everything deflated, in base64.

        The low and high bytes of two-byte numbers stand apart: the high ones hold sign and exponent, and deflate well.
        """
        numbers = np.frombuffer(self.pairs, np.uint8)
        sizes = np.array([len(self.header), len(numbers) // 2], np.uint32).tobytes()
        planes = sizes + self.header + numbers[0::2].tobytes() + numbers[1::2].tobytes()
        return base64.b64encode(zlib.compress(planes, 6)).decode("ascii")


@dataclass(frozen=True)
class StoredQueries:
    """The queries of a snapshot: those of its trace are some of the model's.

    Attributes:
        numbers: index of each in the model.
        tracks: of each, the index in the model of the query of the last snapshot that continues it.
        mean_rows: by site, the mean row over heads and all queries of the model: [S].
    """

    numbers: Sequence[int]
    tracks: Sequence[int]
    mean_rows: Mapping[str, Tensor]


def trace_payload(
    trace: TraceData,
    *,
    sites: Sequence[str] | None = None,
    max_bytes: int = MAX_BYTES,
    with_image: bool = True,
    stored: StoredQueries | None = None,
) -> Payload:
    """Return a trace as the page reads it.

    Args:
        trace: with its records; gradients, features and values are not part of it.
        sites: recorded sites to include; None is all of them.
        max_bytes: room for the records; sites that would exceed it are left out, the last layers are kept.
        with_image: include the image; the page has that of another payload where it is left out.
        stored: which queries of the model these are, where they are not all of them.
    """
    arrays = Arrays()
    if with_image:
        arrays.add("image", np.frombuffer(_image_bytes(trace), np.uint8), "u8")
    _add_predictions(arrays, trace)
    mask_size = _add_masks(arrays, trace)
    chosen = [site for site in trace.sites if sites is None or site in sites]
    kept, left_out = _fitting(trace, chosen, max_bytes)
    for site in kept:
        _add_record(arrays, site, trace.record(site))
        if stored is not None:
            arrays.add(f"{site}/mean", stored.mean_rows[site].float().numpy(), "f16")
    geometry = trace.geometry
    if trace.targets_xyxy is not None and trace.targets is not None:
        arrays.add("target_boxes", trace.targets_xyxy.numpy(), "f32")
        arrays.add("target_classes", trace.targets.labels.numpy(), "i32")
    header = {
        "format": FORMAT,
        "by": f"detrscope {__version__}",
        "model": trace.card.variant,
        "source": trace.source,
        "scoring": trace.card.scoring,
        "top": trace.card.top,
        "classes": trace.classes.to_json(),
        "width": geometry.width,
        "height": geometry.height,
        "crop": list(geometry.crop_xyxy),
        "content": list(geometry.content),
        "padded": list(geometry.padded),
        "levels": [[level.height, level.width] for level in trace.levels],
        "layers": len(trace.logits),
        "queries": trace.queries,
        "sites": [_site_info(site, trace.record(site)) for site in kept],
        "modelSites": list(trace.model_sites),
        "leftOut": left_out,
        "edits": [edit.describe() for edit in trace.edits],
        "notes": dict(trace.notes),
        "imageType": "image/jpeg",
        "maskSize": mask_size,
        "numbers": None if stored is None else list(stored.numbers),
        "tracks": None if stored is None else list(stored.tracks),
        "arrays": arrays.placed(),
    }
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-(len(MAGIC) + 4 + len(text)) % 4)
    head = MAGIC + np.uint32(len(text)).tobytes() + text + b"".join(arrays.plain)
    return Payload(head, b"".join(arrays.pairs), tuple(left_out))


def _image_bytes(trace: TraceData) -> bytes:
    """Return the original, or the model's input where it was not kept, as a JPEG file of bounded size."""
    pixels = trace.original if trace.original is not None else trace.image
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _add_predictions(arrays: Arrays, trace: TraceData) -> None:
    count = min(TOP_CLASSES, len(trace.classes))
    layers = range(len(trace.logits))
    tops = [trace.scores(layer).topk(count, dim=-1) for layer in layers]
    arrays.add("boxes", np.stack([trace.boxes_xyxy(layer).numpy() for layer in layers]), "f32")
    arrays.add("top_scores", np.stack([top.values.numpy() for top in tops]), "f32")
    arrays.add("top_classes", np.stack([top.indices.numpy() for top in tops]), "i32")


def _add_masks(arrays: Arrays, trace: TraceData) -> list[int] | None:
    """Add the masks of the queries, a bit a pixel; return their height and width, None where there are none."""
    if trace.masks is None:
        return None
    x0, y0, x1, y1 = trace.geometry.crop_xyxy
    scale = min(1.0, MASK_SIDE / max(x1 - x0, y1 - y0))
    height, width = max(1, round((y1 - y0) * scale)), max(1, round((x1 - x0) * scale))
    masks = masks_of_queries(trace.masks, range(trace.queries), height, width)
    arrays.add("masks", np.packbits(masks.flatten(1).numpy(), axis=1).reshape(-1), "u8")
    return [height, width]


def _add_record(arrays: Arrays, site: str, record: Record) -> None:
    if isinstance(record, DenseRecord):
        arrays.add(f"{site}/query", _numbers(record.query), "f16")
        arrays.add(f"{site}/key", _numbers(record.key), "f16")
        for name, tensor in (("bias", record.bias), ("gain", record.gain)):
            if tensor is not None:
                values = _numbers(tensor.reshape([1] * (4 - tensor.dim()) + [*tensor.shape]))
                arrays.add(f"{site}/{name}", values, "f16" if tensor.dtype == torch.float16 else "f32")
        return
    points = (_numbers(record.points) - POINT_LOW) / POINT_STEP
    arrays.add(f"{site}/points", points.round().clip(0, 65535), "u16", low=POINT_LOW, step=POINT_STEP)
    arrays.add(f"{site}/weights", _numbers(record.weights), "f16")
    arrays.add(f"{site}/reference", _numbers(record.reference), "f32")
    if record.key_gain is not None and record.key_group is not None:
        arrays.add(f"{site}/key_gain", record.key_gain.float().numpy(), "f32")
        arrays.add(f"{site}/key_group", record.key_group[0].numpy(), "i32")


def _numbers(tensor: Tensor) -> np.ndarray:
    """Return a tensor of a batch of one without the batch."""
    return np.asarray(tensor[0].float().numpy())


def _site_info(site: str, record: Record) -> dict[str, Any]:
    heads, queries, keys = record.shape
    dense = isinstance(record, DenseRecord)
    own: dict[str, Any] = {}
    if isinstance(record, DenseRecord):
        if record.levels:
            own["levels"] = [[level.height, level.width] for level in record.levels]
        if record.windows is not None:
            own["windows"] = [record.windows.rows, record.windows.columns]
        if record.extra:
            own["extra"] = record.extra
    return {
        **own,
        "name": site,
        "kind": "dense" if dense else "deformable",
        "heads": heads,
        "queries": queries,
        "keys": keys,
        "scale": record.scale if isinstance(record, DenseRecord) else 1.0,
        "pointLevels": []
        if dense
        else list(record.point_levels)
        if isinstance(record, DeformableRecord)
        else [],
    }


def _fitting(trace: TraceData, sites: list[str], max_bytes: int) -> tuple[list[str], list[str]]:
    """Return the sites whose records fit, and those that do not: the smallest first, of equal ones the last layers."""
    order = sorted(range(len(sites)), key=lambda i: (record_bytes(trace.record(sites[i])), -i))
    room, kept = max_bytes, set()
    for index in order:
        size = record_bytes(trace.record(sites[index]))
        if size <= room:
            room -= size
            kept.add(index)
    return (
        [site for i, site in enumerate(sites) if i in kept],
        [site for i, site in enumerate(sites) if i not in kept],
    )


def record_bytes(record: Record) -> int:
    """Return the bytes of a record in the page, before deflating."""
    if isinstance(record, DenseRecord):
        factors = [tensor for tensor in (record.bias, record.gain) if tensor is not None]
        beside = sum(tensor.numel() * tensor.element_size() for tensor in factors)
        return 2 * (record.query.numel() + record.key.numel()) + beside
    return 2 * (record.points.numel() + record.weights.numel())
