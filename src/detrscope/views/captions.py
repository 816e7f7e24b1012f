"""What every figure says of itself: model, layer, head, level, query, normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detrscope.core.attention_map import AttentionMap
from detrscope.core.records import DeformableRecord
from detrscope.core.trace_data import TraceData
from detrscope.views.options import ViewOptions

LISTED = 12  # queries that are named by their number
NOTE = "note"  # of a trace: a warning that belongs in its figures
OWN_PEAK = "colours run from 0 to each map's own peak"


def model(trace: TraceData) -> str:
    """Which model looked at what, and what was changed."""
    name = trace.card.variant
    where = f" on {Path(trace.source).name}" if trace.source else ""
    edits = "; ".join(edit.describe() for edit in trace.edits)
    notes = ", ".join(str(value) if key == NOTE else f"{key} {value}" for key, value in trace.notes.items())
    return f"{name}{where}" + (f", {notes}" if notes else "") + (f", edited ({edits})" if edits else "")


def brief(trace: TraceData) -> str:
    """Which model, when it was, and whether it was changed, such as `detr-r50, epoch 10`."""
    when = f", epoch {trace.notes['epoch']:g}" if isinstance(trace.notes.get("epoch"), int | float) else ""
    return trace.card.variant + when + (", edited" if trace.edits else "")


def heads(trace: TraceData, site: str, choice: ViewOptions) -> str:
    """Such as `mean of 8 heads`."""
    count = trace.record(site).shape[0]
    return (
        f"head {choice.head % count} of {count}"
        if choice.head is not None
        else f"{choice.merge} of {count} heads"
    )


def over(trace: TraceData, site: str, choice: ViewOptions) -> str:
    """What the weights are normalised over."""
    level = choice.level_of(trace)
    ids = range(len(trace.levels)) if level is None else [level]
    sizes = " + ".join(f"{trace.levels[i].height}x{trace.levels[i].width}" for i in ids)
    if isinstance(trace.record(site), DeformableRecord):
        how = f"softmax over points, splatted on {sizes} tokens and not renormalised"
    else:
        how = f"softmax over {sizes} tokens"
    if len(trace.levels) == 1:
        return how
    shown = "all of" if level is None else f"level {level} of"
    return f"{how} ({shown} {len(trace.levels)} levels)"


def sums(maps: Sequence[AttentionMap]) -> str:
    """What the weights of some maps add up to."""
    masses = [one.mass for one in maps]
    low, high = f"{min(masses):.3f}", f"{max(masses):.3f}"
    return f"weights of a map sum to {low}" + (f" to {high}" if low != high else "")


def numbers(queries: Sequence[int]) -> str:
    """Such as `3 queries (number 0, 4, 7)`."""
    listed = ", ".join(map(str, queries[:LISTED])) + (", ..." if len(queries) > LISTED else "")
    return f"{len(queries)} {'query' if len(queries) == 1 else 'queries'} (number {listed})"


def short(number: float) -> str:
    """Two digits, without powers of ten where they can be done without."""
    return f"{number:.0f}" if 100 <= abs(number) < 1e6 else f"{number:.2g}"


def caption(*parts: str) -> str:
    """Parts as one sentence."""
    return "; ".join(part for part in parts if part) + "."
