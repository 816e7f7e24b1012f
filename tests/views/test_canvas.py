"""Colours, formats, and that both painters paint the same."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from detrscope.core.errors import UserError
from detrscope.views import VIEWS
from detrscope.views.canvas import (
    BLACK,
    PALETTE,
    WHITE,
    Box,
    Label,
    Plot,
    Scene,
    class_colours,
    ink_on,
    text_size,
)

ORANGE = PALETTE[0]


def scene() -> Scene:
    background = np.full((60, 100, 3), 128, dtype=np.uint8)
    labels = [Label("owl", (40, 5), 12, ORANGE, BLACK)]
    return Scene(background, [Box((10, 20, 30, 50), ORANGE, 2)], labels)


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
    pixels = Scene(np.zeros((20, 20, 3), np.uint8), [Box((5, 5, 5, 5), ORANGE, 3)]).pixels()
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


def test_a_class_keeps_its_colour_from_picture_to_picture() -> None:
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


def test_ink_contrasts_with_every_plate() -> None:
    def luminance(colour: tuple[int, int, int]) -> float:
        """Relative luminance, WCAG 2.2."""
        linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in PALETTE:
        light, dark = sorted((luminance(colour), luminance(ink_on(colour))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 3, colour
    assert (ink_on(WHITE), ink_on(BLACK)) == (BLACK, WHITE)


def test_table_of_views_is_complete() -> None:
    assert sorted(VIEWS) == ["attention", "contact-sheet", "curves", "detections", "precision-recall"]
    assert all(callable(view) for view in VIEWS.values())
