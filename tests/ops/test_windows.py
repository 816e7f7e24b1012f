"""Attention within windows: tokens are split and joined, records and edits are those of masked attention."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from detrscope.core.edits import Bias, Edit, Gain, KeyBias, Swap
from detrscope.core.geometry import Geometry
from detrscope.core.probe import Probe
from detrscope.core.records import DenseRecord
from detrscope.core.types import Level, Windows
from detrscope.lens.incoming_attention import IncomingAttention
from detrscope.ops.attention import attend
from detrscope.ops.windows import join_windows, split_windows, window_padding

HEADS, WIDTH = 2, 8
CASES = [
    (Windows(2, 3), Level(4, 6), 0),
    (Windows(4, 4), Level(5, 6), 0),  # one column of windows is empty
    (Windows(2, 2), Level(4, 6), 8),
    (Windows(2, 2), Level(3, 5), 4),
]


def tokens(level: Level, extra: int, images: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(images, level.tokens + extra, WIDTH, generator=generator) for _ in range(3)]


def windows_of(windows: Windows, level: Level, extra: int) -> Tensor:
    """Window of each token, counted by hand."""
    height, width = -(-level.height // windows.rows), -(-level.width // windows.columns)
    own = [
        y // height * windows.columns + x // width for y in range(level.height) for x in range(level.width)
    ]
    return torch.tensor(own + [n * windows.count // extra for n in range(extra)])


def run(
    windows: Windows, level: Level, extra: int, edits: Sequence[Edit] = (), geometry: Geometry | None = None
) -> tuple[Tensor, DenseRecord]:
    probe = Probe(edits=edits, geometry=geometry)
    q, k, v = tokens(level, extra)
    options = {"heads": HEADS, "site": "backbone.0.self", "levels": (level,), "windows": windows}
    out = attend(q, k, v, probe=probe, **options)  # type: ignore[arg-type]
    record = probe.records["backbone.0.self"]
    assert isinstance(record, DenseRecord)
    return out, record


@pytest.mark.parametrize(("windows", "level", "extra"), CASES)
def test_split_and_join_are_inverse_and_keep_windows_together(
    windows: Windows, level: Level, extra: int
) -> None:
    x = torch.arange((level.tokens + extra) * 2.0).view(1, 1, -1, 2)
    parts = split_windows(x, windows, level)
    assert torch.equal(join_windows(parts, windows, level), x)
    window, found = windows_of(windows, level, extra), window_padding(windows, level, extra, x)
    for number, part in enumerate(parts):
        real = torch.ones(part.shape[1], dtype=torch.bool) if found is None else found[number, 0, 0] == 0
        assert sorted(part[0][real][:, 0].tolist()) == sorted(x[0, 0][window == number][:, 0].tolist())


@pytest.mark.parametrize(("windows", "level", "extra"), CASES)
def test_equals_attention_with_a_mask(windows: Windows, level: Level, extra: int) -> None:
    out, record = run(windows, level, extra)
    window = windows_of(windows, level, extra)
    apart = window[:, None] != window
    masked = attend(*tokens(level, extra), heads=HEADS, site="backbone.0.self", mask=apart)
    torch.testing.assert_close(out, masked)
    torch.testing.assert_close(record.output(), out)
    assert (record.levels, record.windows, record.extra) == ((level,), windows, extra)
    assert record.shape == (HEADS, level.tokens, level.tokens)
    rows = record.rows()
    assert rows.shape == (2, HEADS, level.tokens, level.tokens)
    inside = apart[: level.tokens, : level.tokens]
    assert rows[:, :, inside].abs().max() == 0 and rows[:, :, ~inside].min() > 0
    whole = record.rows(torch.tensor([1, 3]))
    torch.testing.assert_close(whole, rows[:, :, [1, 3]])
    mass = rows.sum(-1)
    assert mass.max() < 1 if extra else torch.allclose(mass, torch.ones_like(mass))
    keys = torch.tensor([0, level.tokens - 1])
    torch.testing.assert_close(IncomingAttention(record).of(keys), rows[0, :, :, keys])


EDITS: list[Edit] = [
    Gain("*", factor=0.5, heads=(1,)),
    Gain("*", factor=0.0, keys=(2,), queries=(1, 3)),
    Bias("*", torch.linspace(-1, 1, 24).view(1, 1, 1, 24)),
    Bias("*", torch.linspace(-1, 1, 24).view(1, 1, 24, 1) * torch.ones(24)),
    KeyBias("*", None, region_xyxy=(0, 0, 40, 20)),
    Swap("*", "value", torch.ones(2, HEADS, 24, WIDTH // HEADS)),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.describe())
def test_edits_equal_those_of_masked_attention(edit: Edit) -> None:
    windows, level, _ = CASES[0]
    geometry = Geometry.of_resize(100, 150, (100, 150))
    plain, _ = run(windows, level, 0)
    out, record = run(windows, level, 0, [edit], geometry)
    window = windows_of(windows, level, 0)
    masked = Probe(edits=[edit], geometry=geometry)
    expected = attend(
        *tokens(level, 0),
        heads=HEADS,
        site="backbone.0.self",
        mask=window[:, None] != window,
        levels=(level,),
        probe=masked,
    )
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(record.output(), out)
    torch.testing.assert_close(record.rows(), masked.records["backbone.0.self"].rows())
    assert not torch.allclose(out, plain)


def test_hidden_window_attends_to_nothing() -> None:
    windows, level, _ = CASES[0]
    window = windows_of(windows, level, 0)
    keys = tuple((window == 1).nonzero()[:, 0].tolist())
    out, record = run(windows, level, 0, [KeyBias("*", None, keys=keys)])
    plain, _ = run(windows, level, 0)
    assert out[:, list(keys)].abs().max() == 0
    torch.testing.assert_close(out[:, window != 1], plain[:, window != 1])
    assert record.rows().sum(-1)[..., list(keys)].abs().max() == 0
