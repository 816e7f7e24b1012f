"""Colours, formats, and that both painters paint the same."""

import ast
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from detrscope.core.errors import UserError
from detrscope.views.canvas import (
    BLACK,
    PALETTE,
    WHITE,
    Box,
    ImageOverlay,
    Label,
    PixelFigure,
    Plot,
    Scale,
    class_colours,
    header_and_footer,
    shorten_to_width,
    text_colour_on,
    text_size,
    wrapped,
)
from detrscope.views.canvas.figure import MARGIN
from tests.conftest import ROOT

ORANGE = PALETTE[0]


def scene() -> ImageOverlay:
    background = np.full((60, 100, 3), 128, dtype=np.uint8)
    labels = [Label("owl", (40, 5), 12, ORANGE, BLACK)]
    return ImageOverlay(background, [Box((10, 20, 30, 50), ORANGE, 2)], labels)


def test_box_is_painted_on_exactly_its_pixels() -> None:
    pixels = scene().pixels()
    assert pixels.shape == (60, 100, 3)
    lit = (pixels == ORANGE).all(axis=2)
    expected = np.zeros((60, 100), dtype=bool)
    expected[20:50, 10:30] = True
    expected[22:48, 12:28] = False
    assert (lit[:, :35] == expected[:, :35]).all()
    width, height = text_size("owl", 12)
    plate = pixels[5 : 5 + height, 40 : 40 + width]
    assert (plate[0] == ORANGE).all() and (plate[-1] == ORANGE).all()
    assert (pixels[5 + height, 40 : 40 + width] == 128).all()
    assert (plate < 60).all(axis=2).any()  # the ink


def test_vectors_show_what_pixels_show() -> None:
    canvas = FigureCanvasAgg(scene().figure())
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    painted = scene().pixels().astype(int)
    assert drawn.shape == painted.shape
    assert np.abs(drawn - painted)[:, :35].max() <= 3  # the box
    assert np.abs(drawn - painted).mean() < 3  # the type differs by a fraction of a pixel


def test_a_box_thinner_than_its_outline_is_still_drawn() -> None:
    pixels = ImageOverlay(np.zeros((20, 20, 3), np.uint8), [Box((5, 5, 5, 5), ORANGE, 3)]).pixels()
    assert (pixels == ORANGE).all(axis=2).sum() == 9


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "svg", "pdf"])
def test_saves_every_format_with_its_content(tmp_path: Path, ending: str) -> None:
    path = scene().save(tmp_path / "deep" / f"a.{ending}")
    marks = {"png": b"\x89PNG", "jpg": b"\xff\xd8", "webp": b"WEBP", "svg": b"<svg", "pdf": b"%PDF"}
    assert marks[ending] in path.read_bytes()[:1000]
    assert list(path.parent.iterdir()) == [path]  # no temporary file is left
    if ending in ("png", "webp", "jpg"):
        with Image.open(path) as image:
            assert image.size == (100, 60)


def test_equal_pictures_are_equal_files(tmp_path: Path) -> None:
    for ending in ("png", "pdf"):
        first, second = (scene().save(tmp_path / f"{n}.{ending}").read_bytes() for n in (1, 2))
        assert first == second


def test_unknown_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"as '\.pgn'; did you mean '\.png'"):
        scene().save(tmp_path / "a.pgn")
    assert not list(tmp_path.iterdir())


def test_notebooks_get_a_png() -> None:
    image = Image.open(io.BytesIO(scene()._repr_png_()))
    assert (np.asarray(image) == scene().pixels()).all()
    assert Image.open(io.BytesIO(Plot(300, 200)._repr_png_())).size == (300, 200)


def test_show_is_inline_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=shown.append))
    picture = scene()
    picture.show()
    assert shown == [picture]


def test_class_keeps_its_colour_between_figures() -> None:
    names = ["RBC", "WBC", "Platelets"]
    colours = class_colours(names)
    assert len(set(colours.values())) == 3
    assert colours == class_colours(reversed(names))
    assert class_colours(["RBC"])["RBC"] == colours["RBC"]
    many = class_colours(f"class {i}" for i in range(200))
    assert set(many.values()) == set(PALETTE)


def test_colours_do_not_depend_on_the_process() -> None:
    """Python's own `hash` would give other ones each time."""
    assert class_colours(["dog"]) == {"dog": PALETTE[3]}


def test_text_contrasts_with_every_background() -> None:
    def luminance(colour: tuple[int, int, int]) -> float:
        """Relative luminance, WCAG 2.2."""
        linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in PALETTE:
        light, dark = sorted((luminance(colour), luminance(text_colour_on(colour))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 3, colour
    assert (text_colour_on(WHITE), text_colour_on(BLACK)) == (BLACK, WHITE)


def test_only_the_canvas_draws() -> None:
    views = ROOT / "src" / "detrscope" / "views"
    for path in views.rglob("*.py"):
        if (
            path.parent.name == "canvas" or path.name == "gif.py"
        ):  # which writes a file of frames and draws nothing
            continue
        imported = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            )
        }
        assert not imported & {"matplotlib", "PIL"}, path


def test_map_has_the_colour_of_its_greatest_cell() -> None:
    values = np.zeros((4, 8))
    values[1, 6] = 0.5
    scale = Scale.from_zero(values)
    for smooth in (True, False):
        sheet = PixelFigure(408, 204)
        sheet.panel(0, 0, 408, 204, (0, 0, 8, 4), smooth).heatmap(values, scale, transparent=False)
        pixels = sheet.pixels()[MARGIN : MARGIN + 204].astype(int)
        hottest = 255 * scale.opaque(np.array(0.5))[:3]
        assert np.abs(pixels[76, 331] - hottest).max() <= 1, "the middle of cell (1, 6)"
        coldest = 255 * scale.opaque(np.array(0.0))[:3]
        assert np.abs(pixels[178, 50] - coldest).max() <= 1


@pytest.mark.parametrize(("low", "high", "seen"), [(0, 255, 115), (140, 200, 78), (150, 150, 0)])
def test_image_under_a_map_is_pale_grey(low: int, high: int, seen: float) -> None:
    image = np.full((100, 200, 3), low, np.uint8)
    image[:, 100:] = high
    sheet = PixelFigure(200, 100)
    sheet.panel(0, 0, 200, 100, (0, 0, 200, 100)).image(image, grey=True)
    pixels = sheet.pixels()[MARGIN : MARGIN + 100].astype(int)
    assert (pixels[..., 0] == pixels[..., 2]).all() and pixels.min() >= 98 and pixels.max() <= 213
    assert pixels[50, 150, 0] - pixels[50, 50, 0] == pytest.approx(seen, abs=2)


def test_map_is_transparent_at_zero() -> None:
    sheet = PixelFigure(200, 100)
    panel = sheet.panel(0, 0, 200, 100, (0, 0, 200, 100))
    image = np.random.default_rng(0).integers(0, 255, (100, 200, 3), dtype=np.uint8)
    panel.image(image)
    panel.heatmap(np.array([[0.0, 0, 0, 1]]), Scale(0, 1), (0, 0, 200, 100))
    pixels = sheet.pixels()[MARGIN : MARGIN + 100]
    assert (pixels[:, :100] == image[:, :100]).all()
    assert (pixels[:, 190:] != image[:, 190:]).any(axis=2).mean() > 0.95


def test_boxes_are_clipped_and_outside_dots_left_out() -> None:
    sheet = PixelFigure(200, 100)
    panel = sheet.panel(0, 0, 100, 100, (0, 0, 100, 100))
    panel.box((-50, 20, 60, 300), ORANGE, width=4)
    panel.dots(np.array([[150.0, 50.0], [80.0, 50.0]]), PALETTE[4], 10)
    pixels = sheet.pixels()[MARGIN : MARGIN + 100].astype(int)
    assert (np.abs(pixels[40:90, 1] - ORANGE) <= 2).all() and (np.abs(pixels[98, 10:50] - ORANGE) <= 2).all()
    assert (np.abs(pixels[50, 80] - PALETTE[4]) <= 2).all()
    assert (pixels[:, 110:] == 255).all()


def test_figure_has_room_for_heading_and_caption() -> None:
    bare, told = PixelFigure(300, 50), PixelFigure(300, 50, "a heading", "word " * 60)
    above, below = header_and_footer(300, "a heading", "word " * 60)
    assert bare.pixels().shape == (50 + sum(header_and_footer(300, "", "")), 300, 3)
    assert told.pixels().shape == (50 + above + below, 300, 3)
    pixels = told.pixels()
    inked = np.nonzero((pixels < 150).any(axis=(1, 2)))[0]
    assert inked.min() < above and inked.max() > above + 50
    assert not (pixels[above : above + 50] < 255).any() and (pixels[:, -MARGIN // 2 :] == 255).all()


def test_long_texts_are_wrapped_or_shortened() -> None:
    lines = wrapped("one two three four five six", 12, 60)
    assert " ".join(lines) == "one two three four five six" and len(lines) > 2
    assert all(text_size(line, 12)[0] <= 66 for line in lines)
    short = shorten_to_width("a very long name of a file.jpg", 12, 100)
    assert text_size(short, 12)[0] <= 100 and short.startswith("a v") and short.endswith("jpg")
    assert shorten_to_width("short", 12, 100) == "short"


def test_diverging_scale_is_white_at_zero() -> None:
    scale = Scale.symmetric(np.array([-1.0, 3.0]))
    assert (scale.low, scale.high) == (-3, 3)
    below, zero, above = scale.opaque(np.array([-3.0, 0, 3]))[:, :3]
    assert zero.min() > 0.94 and below[0] > below[2] and above[2] > above[0]
    assert (scale.translucent(np.array([-3.0, 0, 3]))[:, 3] > 0.5).tolist() == [True, False, True]
