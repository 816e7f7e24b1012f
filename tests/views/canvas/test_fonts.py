"""Names in any script are drawn with a typeface that has them, or spelt out with one warning; never as empty boxes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from detrscope.core.types import Detections
from detrscope.views.canvas import ImageOverlay, PixelFigure, Plot, text_size
from detrscope.views.canvas import fonts as module
from detrscope.views.canvas.image_overlay import Label
from detrscope.views.detection_image import draw_detections
from detrscope.views.precision_recall import draw_precision_recall

DATA = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
ARC = "\u2312"  # in DejaVu Sans Mono, not in DejaVu Sans
CHINESE = "\u72ac\u72d7"


@pytest.fixture(autouse=True)
def one_other_typeface(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A system with one other typeface, a damaged one, and one that claims all characters and has no letters."""

    def forget() -> None:
        for cached in (module._face_of, module._opened):
            cached.cache_clear()
        module._warned.clear()

    damaged = Path(__file__)
    files = (damaged, DATA / "LastResortHE-Regular.ttf", DATA / "DejaVuSansMono.ttf")
    monkeypatch.setattr(module, "_system", lambda: files)
    forget()
    yield
    forget()


def test_system_typeface_is_used_for_missing_characters() -> None:
    assert list(module.font_runs(f"a{ARC}b")) == [
        ("a", module.DEFAULT_FONT),
        (ARC, DATA / "DejaVuSansMono.ttf"),
        ("b", module.DEFAULT_FONT),
    ]


def test_pillow_and_matplotlib_draw_the_glyph_of_that_typeface() -> None:
    def pixels(text: str) -> np.ndarray:
        return ImageOverlay(np.full((40, 80, 3), 255, np.uint8), (), [Label(text, (0, 0), 24)]).pixels()

    assert (pixels(ARC) != pixels("\u2313")).any(), "both are empty boxes"
    sheet = PixelFigure(200, 40)
    sheet.text(ARC, 5, 5)
    assert sheet.pixels().std() > 1  # pytest turns matplotlib's warning about glyphs into an error


def test_missing_characters_are_escaped_and_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="detrscope"):
        assert module.drawable_text(CHINESE) == r"\u72ac\u72d7"
        assert module.drawable_text("\u732b") == r"\u732b"
    assert len(caplog.records) == 1 and "no typeface" in caplog.text and "Noto Sans CJK" in caplog.text
    assert text_size(CHINESE, 20) == text_size(r"\u72ac\u72d7", 20)


def test_class_name_that_cannot_be_drawn_is_its_id() -> None:
    assert module.drawable_class_label(CHINESE, 7) == "class 7"
    assert module.drawable_class_label("dog", 7) == "dog"
    found = Detections(
        torch.tensor([[5.0, 5, 300, 300]]),
        torch.tensor([0.9]),
        torch.tensor([7]),
        (CHINESE,),
        torch.tensor([0]),
        400,
        400,
    )
    picture = draw_detections(torch.zeros(3, 400, 400, dtype=torch.uint8), found)
    assert isinstance(picture, ImageOverlay) and [label.text for label in picture.labels] == ["class 7 0.90"]


@pytest.mark.parametrize(
    "name",
    [
        CHINESE,
        "a\nb",
        "a\0b",
        "\x1b[31mred",
        "$x_1$",
        "\\frac{",
        "_hidden",
        "\ud800",
        "\U0001f415",
        "[/b]",
        "",
    ],
)
@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_no_name_breaks_a_chart(tmp_path: Path, name: str, ending: str) -> None:
    curves = {name: ([0.5] * 101, [0.2] * 101), "dog": ([0.6] * 101, [0.1] * 101)}
    plot = draw_precision_recall(curves, tmp_path / f"a{ending}", title=name)
    legend = plot.figure().axes[0].get_legend()
    assert legend is not None and len(legend.get_texts()) == 3, "a class is missing in the legend"
    bars = Plot(300, 200)
    (chart,) = bars.grid(1, 1)
    chart.bars([name, "dog"], [1, 2], [(0, 0, 0), (9, 9, 9)])
    assert bars.pixels().std() > 1
