"""A report: traces in one HTML file that opens from disk, offline, in any browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detrscope.core.errors import UserError
from detrscope.core.files import atomic_write
from detrscope.core.trace_data import TraceData
from detrscope.explorer.bundle import page_html
from detrscope.explorer.payload import MAX_BYTES, trace_payload


def write_report(
    traces: Sequence[TraceData], path: str | Path, *, model: str = "", max_bytes: int = MAX_BYTES
) -> tuple[str, ...]:
    """Write traces as one page: pictures, predictions, and the records that its maps are computed from.

    Args:
        traces: one or several; of the first image and its edited versions, say.
        path: such as `report.html`.
        model: name of the model in the commands that the page gives; that of the card by default.
        max_bytes: room for the records of each trace.

    Returns:
        Attention sites that were left out for want of room, of any trace.

    Raises:
        UserError: no trace.
    """
    if not traces:
        raise UserError("report: expected at least one trace")
    payloads = [trace_payload(trace, max_bytes=max_bytes) for trace in traces]
    names = [
        (trace.source or f"image {number}") + (" (edited)" if trace.edits else "")
        for number, trace in enumerate(traces)
    ]
    first = traces[0]
    title = f"{first.card.variant}: {first.source or 'image'}"
    html = page_html(
        title,
        [(name, payload.embedded()) for name, payload in zip(names, payloads, strict=True)],
        {"model": model or first.card.variant},
    )
    with atomic_write(Path(path)) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return tuple(dict.fromkeys(site for payload in payloads for site in payload.left_out))
