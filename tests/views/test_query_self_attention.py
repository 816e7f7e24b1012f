"""Decoder self-attention as a table."""

from __future__ import annotations

from dataclasses import replace

import torch

from detrscope.core.types import Level
from detrscope.views import draw
from detrscope.views.options import ViewOptions
from tests.support.figures import (
    made,
    peaked,
    texts,
)


def test_query_table_holds_the_attention_rows() -> None:
    query = torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 0, 3]])[None, None]
    cross, among = (
        peaked([[(1, 1)] * 3]),
        replace(peaked([[(0, 0)] * 3], Level(1, 3)), query=query, bias=None),
    )
    trace = made({"decoder.1.self": among, "decoder.1.cross": cross})
    sheet = draw(trace, "query-self-attention", ViewOptions(queries=(2, 0)))
    expected = torch.eye(3).mul(torch.tensor([2.0, 1, 3])).softmax(-1)
    rows = [[expected[q, 2], expected[q, 0], expected[q, 1]] for q in (2, 0)]
    numbers = [t for t in texts(sheet) if t.startswith("0.") and " " not in t]
    rest, among = [row[2] for row in rows], [v for row in rows for v in row[:2]]
    assert sorted(numbers) == sorted(f"{float(v):.2g}" for v in [*rest, *among])
