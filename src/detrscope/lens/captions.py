"""Captions of maps and figures: model, site, heads, query, level and normalisation in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detrscope.core.attention_map import AttentionMap, Selection
from detrscope.core.edits import caption_edit
from detrscope.core.records import DeformableRecord, DenseRecord
from detrscope.core.trace_data import TraceData
from detrscope.core.types import Level

MAX_LISTED = 12  # queries that are listed by number
NOTE = "note"  # key in the notes of a trace: a warning that belongs in its captions
OWN_PEAK = (
    "colours begin at even attention and reach each map's own peak, given in its corner, or 4 times even"
)


def caption(*parts: str) -> str:
    """Return the parts that are not empty as one sentence."""
    return "; ".join(part for part in parts if part) + "."


def caption_model_and_source(trace: TraceData) -> str:
    """Return model, image, notes and edits."""
    image = f" on {Path(trace.source).name}" if trace.source else ""
    edits = "; ".join(map(caption_edit, trace.edits))
    notes = ", ".join(str(value) if key == NOTE else f"{key} {value}" for key, value in trace.notes.items())
    return (
        trace.card.variant
        + image
        + (f", {notes}" if notes else "")
        + (f", edited ({edits})" if edits else "")
    )


def caption_model(trace: TraceData) -> str:
    """Return the model, its epoch and its number of edits, such as `detr-r50, epoch 10`."""
    epoch = trace.notes.get("epoch")
    when = f", epoch {epoch:g}" if isinstance(epoch, int | float) else ""
    return trace.card.variant + when + (f", {len(trace.edits)} edits" if trace.edits else "")


def caption_heads(trace: TraceData, selection: Selection) -> str:
    """Return how the heads of a site are merged, such as `mean of 8 heads`."""
    count, head = trace.record(selection.site).shape[0], selection.head
    return f"{selection.merge} of {count} heads" if head is None else f"head {head % count} of {count}"


def caption_token_sizes(levels: Sequence[Level], level: int | None) -> str:
    """Return the sizes of the shown levels, such as `25x34 + 13x17`."""
    levels = levels if level is None else [levels[level]]
    return " + ".join(f"{size.height}x{size.width}" for size in levels)


def caption_normalisation(trace: TraceData, selection: Selection) -> str:
    """Return what the weights of a site are normalised over, and which levels are shown."""
    site, level = selection.site, selection.level
    record, levels = trace.record(site), trace.levels_at(site)
    sizes = caption_token_sizes(levels, level)
    if site.startswith("decoder") and site.endswith("self"):
        return f"softmax over {record.shape[2]} queries"
    if isinstance(record, DeformableRecord):
        text = f"softmax over points, splatted on {sizes} tokens and not renormalised"
    elif record.windows is not None:
        height, width = record.windows.sides(levels[0])
        text = f"softmax over the tokens of a window of {height}x{width} among {sizes}"
    else:
        text = f"softmax over {sizes} tokens"
    if isinstance(record, DenseRecord) and record.extra:
        text += ", and class tokens that lie nowhere"
    count = len(levels)
    if count == 1:
        return text
    return f"{text} ({'all' if level is None else f'level {level % count}'} of {count} levels)"


def caption_weight_sums(maps: Sequence[AttentionMap]) -> str:
    """Return the least and the greatest sum of the weights of some maps."""
    masses = [attention.mass for attention in maps]
    low, high = f"{min(masses):.3f}", f"{max(masses):.3f}"
    return f"weights of a map sum to {low}" + (f" to {high}" if low != high else "")


def caption_queries(queries: Sequence[int]) -> str:
    """Return query indices in words, such as `3 queries (number 0, 4, 7)`."""
    listed = ", ".join(map(str, queries[:MAX_LISTED])) + (", ..." if len(queries) > MAX_LISTED else "")
    return f"{len(queries)} {'query' if len(queries) == 1 else 'queries'} (number {listed})"


def map_caption(
    trace: TraceData, selection: Selection, name: str, mass: float, *, of_site: bool = True
) -> str:
    """Return the caption of one map.

    Args:
        trace: the trace.
        selection: what the map was computed from.
        name: name of its rows.
        mass: sum of its weights.
        of_site: whether it holds weights of one site, not computed over heads and layers.
    """
    if of_site:
        parts = [
            selection.site,
            name,
            caption_heads(trace, selection),
            caption_normalisation(trace, selection),
        ]
    else:
        parts = [name, f"{caption_token_sizes(trace.levels_at(selection.site), selection.level)} tokens"]
    return ", ".join([caption_model(trace), *parts, f"weights sum to {mass:.3f}"])
