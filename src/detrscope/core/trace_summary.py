"""Describe a trace in words: the shapes of everything, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields

from torch import Tensor

from detrscope.core.edits import caption_edit
from detrscope.core.records import DeformableRecord, DenseRecord, Record
from detrscope.core.trace_data import TraceData
from detrscope.core.types import Level

MEBI = 2**20


def describe_trace(trace: TraceData) -> str:
    """Return the shapes from the file to the boxes, and the memory of each site's record, as text."""
    g = trace.geometry
    lines = [
        f"{trace.card.variant} on {trace.source or 'an image'}: {g.width} x {g.height} pixels"
        + (f", stored with EXIF orientation {g.orientation}" if g.orientation != 1 else ""),
        *_aligned(
            [
                ("model input", f"[1, 3, {g.padded[0]}, {g.padded[1]}]", _resize(trace)),
                *((name, str(list(shape)), "") for name, shape in trace.shapes.items()),
                (
                    "levels",
                    ", ".join(f"{level.height}x{level.width}" for level in trace.levels),
                    f"{trace.tokens} tokens",
                ),
                ("logits", str([*trace.logits.shape]), "decoder layers, queries, classes"),
                ("boxes", str([*trace.boxes_cxcywh.shape]), "centre and size, 0..1 of the image"),
            ]
        ),
    ]
    if trace.records:
        head = ("site", "heads", "attention", "as maps of the image", "record", "dense map")
        lines += [
            "",
            *_aligned([head, *(_row(trace, site, record) for site, record in trace.records.items())]),
        ]
    if trace.features:
        rows = [
            (site, str(list(maps.shape)), f"{maps.nbytes / MEBI:.2f} MiB")
            for site, maps in trace.features.items()
        ]
        lines += ["", *_aligned([("feature map", "shape", "size"), *rows])]
    lines += [f"edited: {caption_edit(edit)}" for edit in trace.edits]
    if missing := [site for site in trace.model_sites if site not in trace.records]:
        lines.append(f"not recorded: {', '.join(missing)}")
    return "\n".join(lines)


def _resize(trace: TraceData) -> str:
    g = trace.geometry
    whole = (0.0, 0.0, float(g.width), float(g.height))
    crop = "" if g.crop_xyxy == whole else f"crop {', '.join(f'{v:g}' for v in g.crop_xyxy)}; "
    padding = "" if g.padded == g.content else f", padded to {g.padded[1]} x {g.padded[0]}"
    return f"{crop}resized to {g.content[1]} x {g.content[0]}{padding}"


def _row(trace: TraceData, site: str, record: Record) -> tuple[str, ...]:
    among_queries = site.startswith("decoder") and site.endswith("self")
    heads, queries, keys = record.shape
    size = sum(v.nbytes for f in fields(record) if isinstance(v := getattr(record, f.name), Tensor))
    if isinstance(record, DenseRecord):
        attention = str([heads, queries, keys])
    else:
        points = record.points.shape[3]
        attention = f"{[heads, queries, points]} points of {len(record.levels)} levels"
    levels = trace.levels_at(site)
    rows = None if site.startswith("decoder") else levels
    maps = "-" if among_queries else _maps(heads, queries, rows, levels)
    dense = heads * queries * keys * 4 / MEBI
    note = " (never computed)" if isinstance(record, DeformableRecord) else ""
    return site, str(heads), attention, maps, f"{size / MEBI:.2f} MiB", f"{dense:.1f} MiB{note}"


def _maps(heads: int, queries: int, rows: Sequence[Level] | None, columns: Sequence[Level]) -> str:
    """Return the shape of an attention map as grids of the image: [850, 850] is [25, 34, 25, 34]."""
    if len(columns) > 1:
        grids = " + ".join(f"{level.height}x{level.width}" for level in columns)
        return f"{queries} rows over {grids}"
    own = list(rows[0]) if rows else [queries]
    return str([heads, *own, *columns[0]])


def _aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    rows = [list(row) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
