"""Incoming attention of a point."""

from __future__ import annotations

import pytest

from detrscope.views import draw
from detrscope.views.options import ViewOptions
from tests.support.figures import (
    made,
    middle,
    peaked,
)


def test_incoming_queries_are_sorted_by_weight() -> None:
    record = peaked([[(2, 5), (0, 0), (2, 5)], [(2, 5), (0, 0), (1, 1)]])
    sheet = draw(made({"decoder.1.cross": record}), "incoming", ViewOptions(points=(middle((2, 5)),)))
    bars = sheet.figure().axes[1]
    names = [t.get_text() for t in bars.get_yticklabels()]
    assert [name.split(" (")[0] for name in names] == ["query 0", "query 2"], "query 1 looks away"
    widths = [p.get_width() for p in bars.patches]  # type: ignore[attr-defined]
    assert widths == pytest.approx([1.0, 0.5], abs=1e-5)
    assert "1.5 in all" in sheet.caption
