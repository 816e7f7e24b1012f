"""Curves of attention on parts: the parts that are drawn and their values."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from detrscope.views.canvas import PixelFigure
from detrscope.views.part_curves import (
    curve_part_names,
    draw_part_curves,
    draw_ratios,
    part_curve_value,
    whole_object_curve,
)

DOGS = ("object", "ears", "tail", "other objects", "background")


def rows_of(*names: str, steps: int = 4) -> list[dict[str, float | None]]:
    rows: list[dict[str, float | None]] = []
    for i in range(steps):
        row: dict[str, float | None] = {"step": 10 * i, "epoch": i / 2}
        for n, name in enumerate(names, start=1):
            row |= {f"mass/{name}": 0.02 * n * (i + 1), f"area/{name}": 0.01 * n}
        rows.append(row)
    return rows


@pytest.mark.parametrize(
    ("measured", "drawn", "whole"),
    [
        (DOGS, ["ears", "tail", "other objects", "background"], "object"),
        (("object", "other objects", "background"), ["object", "other objects", "background"], "object"),
        (("box", "outside the box"), ["box", "outside the box"], "box"),
        ((), [], ""),
    ],
)
def test_the_finest_known_parts_are_drawn(measured: tuple[str, ...], drawn: list[str], whole: str) -> None:
    assert curve_part_names(rows_of(*measured)) == drawn and whole_object_curve(rows_of(*measured)) == whole


def test_values_are_percent_or_relative_to_area() -> None:
    row = rows_of("ears")[2]
    assert part_curve_value(row, "ears", relative=False) == pytest.approx(6.0)
    assert part_curve_value(row, "ears", relative=True) == pytest.approx(6.0)
    assert part_curve_value(row, "tail", relative=True) is None


def test_the_figure_is_saved_as_png_and_svg(tmp_path: Path) -> None:
    for measured in (DOGS, ("box", "outside the box")):
        draw_part_curves(rows_of(*measured), tmp_path / "parts.png", name="run")
        with Image.open(tmp_path / "parts.png") as picture:
            assert picture.size[0] == 1100
    draw_part_curves(rows_of(*DOGS, steps=1), tmp_path / "parts.svg")
    assert "ears" in (tmp_path / "parts.svg").read_text()


def test_curves_grow_and_their_names_do_not_overlap() -> None:
    texts: list[list[tuple[float, str]]] = []
    for until in (0, 30):
        sheet = PixelFigure(600, 300)
        seen: list[tuple[float, str]] = []
        real = sheet.text

        def keep(
            text: str, x: float, y: float, seen: list[tuple[float, str]] = seen, real=real, **more
        ) -> None:
            seen.append((y, text))
            real(text, x, y, **more)

        sheet.text = keep
        draw_ratios(sheet, (40, 30, 380, 220), rows_of(*DOGS), until=until)
        texts.append(seen[1:])
    assert {t for _, t in texts[0]} == {"ears 2x", "tail 2x", "other objects 2x", "background 2x"}
    assert {t for _, t in texts[1]} == {"ears 8x", "tail 8x", "other objects 8x", "background 8x"}
    for seen in texts:
        heights = sorted(y for y, _ in seen)
        assert min(b - a for a, b in pairwise(heights)) >= 12
        assert heights[0] >= 0 and heights[-1] <= 250
