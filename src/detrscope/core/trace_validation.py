"""Check that the parts of a trace from a file fit together, so that later computations cannot fail on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from detrscope.core.geometry import Geometry
from detrscope.core.records import DeformableRecord, DenseRecord
from detrscope.core.trace_data import TraceData

MAX_IMAGE_AREA = 1 << 31  # pixels
MAX_WINDOWS = 1 << 10  # along a side of a map


def find_problem(trace: TraceData) -> str:
    """Return a description of the first inconsistency; empty if there is none."""
    return next((problem for problem in _problems(trace) if problem), "")


def _problems(trace: TraceData) -> Iterator[str]:
    """Yield the result of each check; later checks may rely on earlier ones."""
    yield _check_geometry(trace.geometry)
    if tuple(trace.image.shape) != (3, *trace.geometry.content) or trace.image.dtype != torch.uint8:
        yield f"image {list(trace.image.shape)}: expected uint8 {[3, *trace.geometry.content]}"
    yield from _check_predictions(trace)
    yield from _check_ground_truth(trace)
    queries, tokens = trace.queries, trace.tokens
    for site, record in trace.records.items():
        if site not in trace.model_sites:
            yield f"a record at '{site}', which the model does not have"
        among_queries = site.startswith("decoder") and site.endswith("self")
        rows = queries if site.startswith("decoder") else tokens
        keys = queries if among_queries else tokens
        if isinstance(record, DenseRecord):
            if record.levels is not None and not among_queries:
                keys = sum(level.tokens for level in record.levels)
                rows = rows if site.startswith("decoder") else keys
            yield from _check_windows(record, site)
            yield from _check_dense(record, site, rows + record.extra, keys + record.extra)
        else:
            yield from _check_deformable(record, site, rows, trace)
    for site, maps in trace.features.items():
        if maps.dim() != 3 or not maps.is_floating_point() or 0 in maps.shape:
            yield f"feature map {list(maps.shape)} at '{site}': expected floating-point [C, H, W]"
    for gradient in trace.gradients:
        if not 0 <= gradient.query < queries or not 0 <= gradient.class_index < len(trace.classes):
            yield f"a gradient of query {gradient.query}, class index {gradient.class_index}"
        for site, tensor in gradient.sites.items():
            if tensor.dim() != 3 or tensor.shape[:2] != (1, _rows_at(trace, site)):
                yield f"a gradient {list(tensor.shape)} at '{site}'"


def _rows_at(trace: TraceData, site: str) -> int | None:
    """Return the number of queries at a site, extra tokens included; None where it was not recorded."""
    record = trace.records.get(site)
    extra = record.extra if isinstance(record, DenseRecord) else 0
    return None if record is None else record.shape[1] + extra


def _check_geometry(g: Geometry) -> str:
    x0, y0, x1, y1 = g.crop_xyxy
    sizes = (g.height, g.width, *g.content, *g.padded)
    if min(sizes) < 1 or g.height * g.width > MAX_IMAGE_AREA:
        return f"image sizes {list(sizes)}: expected at least 1 pixel each and at most {MAX_IMAGE_AREA}"
    if not (0 <= x0 < x1 <= g.width and 0 <= y0 < y1 <= g.height):
        return f"crop {list(g.crop_xyxy)} of an image of {g.width} x {g.height}"
    if g.content[0] > g.padded[0] or g.content[1] > g.padded[1]:
        return f"content {list(g.content)}: larger than the padded size {list(g.padded)}"
    return "" if 1 <= g.orientation <= 8 else f"EXIF orientation {g.orientation}: expected 1 to 8"


def _check_predictions(trace: TraceData) -> Iterator[str]:
    logits, boxes = trace.logits, trace.boxes_cxcywh
    if logits.dim() != 3 or 0 in logits.shape or not logits.is_floating_point():
        yield f"logits {list(logits.shape)}: expected floating-point [N, Q, K]"
    if tuple(boxes.shape) != (*logits.shape[:2], 4) or not boxes.is_floating_point():
        yield f"boxes {list(boxes.shape)} for logits {list(logits.shape)}"
    expected = len(trace.classes) + (trace.card.scoring == "softmax")
    if logits.shape[2] != expected:
        yield f"logits {list(logits.shape)} for {len(trace.classes)} classes scored by {trace.card.scoring}"
    if (masks := trace.masks) is not None:
        sizes = masks.logits.shape[2:] if masks.logits.dim() == 4 else (0, 0)
        if not _is(masks.logits, (1, logits.shape[1], *sizes)) or 0 in sizes:
            yield f"masks {list(masks.logits.shape)} for logits {list(logits.shape)}"
        if masks.extent is not None and not (_is(masks.extent, (1, 2)) and _is_part(masks.extent)):
            yield f"masks that lie on {masks.extent.flatten().tolist()[:4]} of the image: expected two parts of 1"
    if trace.records and not trace.levels:
        yield "attention records but no feature levels: expected the size of at least one level"


def _check_ground_truth(trace: TraceData) -> Iterator[str]:
    size = trace.geometry.height, trace.geometry.width
    if (regions := trace.regions) is not None:
        labels = regions.labels
        fits = tuple(labels.shape) == size and labels.dtype == torch.uint8
        if not fits or int(labels.max()) >= len(regions.names):
            yield f"regions {list(labels.shape)} for an image of {list(size)}"
    if (targets := trace.targets) is not None:
        labels, boxes = targets.labels, targets.boxes_cxcywh
        if labels.dim() != 1 or labels.dtype != torch.int64 or not _is(boxes, (len(labels), 4)):
            yield f"targets {list(labels.shape)} with boxes {list(boxes.shape)}"
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(trace.classes):
            yield f"a target of class index {int(labels.max())} for {len(trace.classes)} classes"


def _check_dense(record: DenseRecord, site: str, rows: int, keys: int) -> Iterator[str]:
    query, key, value = record.query, record.key, record.value
    if key.dim() == 4 and key.shape[2] != keys:
        yield f"{key.shape[2]} keys at '{site}' for {keys} tokens"
    heads, width = query.shape[1::2] if query.dim() == 4 else (0, 0)
    if not _is(query, (1, heads, rows, width)) or not _is(key, (1, heads, keys, width)) or not heads:
        yield f"queries {list(query.shape)} with keys {list(key.shape)} at '{site}' for {rows} rows"
    yield _check_value(value, site, heads, keys)
    for name, part in (("bias", record.bias), ("gain", record.gain)):
        if part is not None and not _broadcasts(part, (1, heads, rows, keys)):
            yield f"a {name} {list(part.shape)} at '{site}'"


def _check_windows(record: DenseRecord, site: str) -> Iterator[str]:
    windows, extra = record.windows, record.extra
    if windows is not None and (record.levels is None or len(record.levels) != 1):
        yield f"windows at '{site}' without the one map that they divide"
    count = 1 if windows is None else windows.count
    sides = (1, 1) if windows is None else (windows.rows, windows.columns)
    if not all(1 <= side <= MAX_WINDOWS for side in sides) or extra < 0 or extra % count:
        yield f"{extra} extra tokens in {sides[0]} x {sides[1]} windows at '{site}'"


def _check_deformable(record: DeformableRecord, site: str, rows: int, trace: TraceData) -> Iterator[str]:
    points, weights, levels, keys = record.points, record.weights, record.levels, trace.tokens
    if levels != trace.levels:
        yield f"{record.shape[2]} keys at '{site}' for {keys} tokens"
    heads, count = weights.shape[1::2] if weights.dim() == 4 else (0, 0)
    if not heads or not _is(weights, (1, heads, rows, count)) or not _is(points, (1, heads, rows, count, 2)):
        yield f"points {list(points.shape)} with weights {list(weights.shape)} for {rows} rows at '{site}'"
    if len(record.point_levels) != count or not all(0 <= n < len(levels) for n in record.point_levels):
        yield f"points of the levels {list(record.point_levels)[:8]} at '{site}'"
    yield _check_value(record.value, site, heads, keys)
    if record.reference.dim() != 4 or record.reference.shape[3] not in (2, 4):
        yield f"references {list(record.reference.shape)} at '{site}'"
    gain, group = record.key_gain, record.key_group
    if (gain is None) != (group is None):
        yield f"a gain on keys without its groups at '{site}'"
    if gain is not None and group is not None:
        whole = not group.is_floating_point() and group.dtype != torch.bool
        if not whole or not _broadcasts(group, (1, heads, rows, count)) or not _is(gain, (len(gain), keys)):
            yield f"a gain on keys {list(gain.shape)} with groups {list(group.shape)} at '{site}'"
        elif group.numel() and not 0 <= int(group.min()) <= int(group.max()) < len(gain):
            yield f"groups up to {int(group.max())} of a gain on keys {list(gain.shape)} at '{site}'"


def _check_value(value: Tensor | None, site: str, heads: int, keys: int) -> str:
    if value is None or (value.dim() == 4 and _is(value, (1, heads, keys, value.shape[3]))):
        return ""
    return (
        f"{value.shape[2] if value.dim() > 2 else 0} values at '{site}' for {keys} keys, {list(value.shape)}"
    )


def _is_part(extent: Tensor) -> bool:
    return bool(((extent > 0) & (extent <= 1)).all())


def _is(tensor: Tensor, shape: tuple[int, ...]) -> bool:
    return tuple(tensor.shape) == shape and tensor.is_floating_point()


def _broadcasts(tensor: Tensor, shape: Sequence[int]) -> bool:
    if tensor.dim() > len(shape):
        return False
    tail = shape[len(shape) - tensor.dim() :]
    return all(size in (1, full) for size, full in zip(tensor.shape, tail, strict=True))
