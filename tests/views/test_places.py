"""What is drawn lies where it was, in the colour of its number: on traces whose numbers are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection

from detrscope.core.attention_map import Selection
from detrscope.core.edits import Gain
from detrscope.core.errors import UserError
from detrscope.core.types import Level
from detrscope.lens.maps import map_of_rows
from detrscope.views import VIEWS, draw
from detrscope.views.attention import draw_attention
from detrscope.views.canvas import PixelFigure, class_colours
from detrscope.views.features import FeatureMaps
from detrscope.views.options import ViewOptions
from detrscope.views.points import sampling_points
from detrscope.views.viewport import Viewport, visible_cells
from tests.support.figures import CELL, COARSE, FINE, GEOMETRY, made, peaked, sampled, texts

PLACES = [(2, 5), (0, 0), (9, 14), (6, 2)]  # row, column of cells on the picture, corners among them
HOTTEST, COLDEST = (252, 255, 164), (0, 0, 4)  # of matplotlib's inferno
DOG = class_colours(["cell", "dog", "far"])["dog"]
Rectangle = tuple[float, float, float, float]


def middle(cell: tuple[int, int]) -> tuple[float, float]:
    """x, y in pixels of the original."""
    return (cell[1] + 0.5) * CELL, (cell[0] + 0.5) * CELL


def images(sheet: PixelFigure) -> list[tuple[np.ndarray, Rectangle]]:
    """Every image on a sheet and its place: x0, y0, x1, y1 in pixels of its body."""
    board = sheet.figure().axes[0]
    found = []
    for image in board.images:
        x0, x1, y1, y0 = image.get_extent()
        found.append((np.asarray(image.get_array()), (x0, y0, x1, y1)))
    return found


def brightest(values: np.ndarray, place: Rectangle, panel: Rectangle) -> tuple[float, float]:
    """Where the most opaque, then the brightest pixels of a map lie, in pixels of the original, given its panel."""
    strength = values.astype(float).sum(-1)
    rows, columns = np.nonzero(strength >= strength.max() - 3)
    x = place[0] + (columns.mean() + 0.5) / values.shape[1] * (place[2] - place[0])
    y = place[1] + (rows.mean() + 0.5) / values.shape[0] * (place[3] - place[1])
    return (x - panel[0]) / (panel[2] - panel[0]) * 60, (y - panel[1]) / (panel[3] - panel[1]) * 40


@pytest.mark.parametrize("cell", PLACES)
def test_map_peaks_at_its_cell_on_a_padded_image(cell: tuple[int, int]) -> None:
    trace = made({"decoder.1.cross": peaked([[(0, 0), (0, 0), cell]] * 2)})
    picture, veil = images(draw(trace, "per-query"))[:2]
    x, y = brightest(*veil, picture[1])
    # At the edge the colour stays the same from the middle of the cell to the end of the picture.
    assert (x, y) == pytest.approx(middle(cell), abs=CELL / 2 + 0.1)
    assert veil[0][..., 3].max() > 200 and np.median(veil[0][..., 3]) == 0


def test_mean_map_has_the_colours_of_its_scale() -> None:
    trace = made({"decoder.1.cross": peaked([[(0, 0), (0, 0), (2, 5)], [(0, 0), (0, 0), (7, 9)]])})
    sheet = draw(trace, "mean")
    (alone, place), panel = images(sheet)[-1], images(sheet)[-2][1]
    assert panel[2] - panel[0] == pytest.approx(1.5 * (panel[3] - panel[1]), rel=0.01)
    across = (
        alone.shape[1] / (place[2] - place[0]) * (panel[2] - panel[0]) / 60
    )  # pixels of the map per original one
    for cell in ((2, 5), (7, 9)):
        x, y = middle(cell)
        np.testing.assert_allclose(alone[int(y * across), int(x * across), :3], HOTTEST, atol=8)
    np.testing.assert_allclose(alone[int(30 * across), int(10 * across), :3], COLDEST, atol=1)
    ticks = [float(t.get_text()) for t in sheet.figure().axes[1].get_yticklabels()]
    assert max(ticks) <= 0.5 < max(ticks) + 0.2, "two heads, one half each"
    assert "mean of 2 heads" in sheet.caption and "weights of a map sum to 1.000" in sheet.caption


def test_per_query_columns_have_title_and_box() -> None:
    trace = made({"decoder.1.cross": peaked([[(1, 1), (2, 2), (3, 3)]])})
    sheet = draw(trace, "per-query", ViewOptions(queries=(2, 0)))
    written = texts(sheet)
    assert written.index("query 2") < written.index("query 0") and "dog 0.90" in written
    panels = [place for values, place in images(sheet) if values.shape[-1] == 3]
    top, below = panels[0], panels[1]
    assert (top[0], top[2]) == (below[0], below[2]) and below[1] > top[3]
    boxes = outlined(sheet, DOG)
    scale = (below[2] - below[0]) / 60
    expected = np.array([12, 8, 36, 24]) * scale + np.array([below[0], below[1]] * 2)
    np.testing.assert_allclose(boxes[0], expected, atol=1.6)  # half a line inside


def outlined(sheet: PixelFigure, colour: tuple[int, int, int]) -> list[np.ndarray]:
    """The corners of every outline of a colour."""
    found = []
    for patch in sheet.figure().axes[0].patches:
        if not patch.get_fill() and np.allclose(patch.get_edgecolor()[:3], np.array(colour) / 255, atol=2e-3):
            x, y, w, h = patch.get_bbox().bounds  # type: ignore[attr-defined]
            found.append(np.array([x, y, x + w, y + h]))
    return found


def test_by_layer_shows_each_layer_and_the_previous_box() -> None:
    record = peaked([[(1, 1), (2, 2), (3, 3)]])
    sheet = draw(made({"decoder.0.cross": record, "decoder.1.cross": record}), "by-layer")
    written = texts(sheet)
    assert (
        written.index("layer 0")
        < written.index("dog 0.50")
        < written.index("layer 1")
        < written.index("dog 0.90")
    )
    assert {"decoder.0.cross", "decoder.1.cross"} <= set(written)
    first, _, second, _ = outlined(sheet, DOG)
    dashed = [b for b in outlined(sheet, (255, 255, 255)) if b[2] - b[0] > 20]
    (before,) = dashed
    panels = [place[0] for values, place in images(sheet) if values.shape[-1] == 3]
    pitch = panels[2] - panels[0]
    np.testing.assert_allclose(before - (pitch, 0, pitch, 0), first, atol=1)
    assert second[0] < before[0], "it moved to the left by 4 pixels"


def test_encoder_shows_the_point_and_its_map() -> None:
    row, column = 6, 2
    looks = [(0, 0)] * (FINE.height * FINE.width)
    looks[row * FINE.width + column] = (1, 12)
    sheet = draw(made({"encoder.0.self": peaked([looks])}), "encoder", ViewOptions(points=((11.0, 25.0),)))
    middle_panel, small, veil = images(sheet)
    assert brightest(*veil, small[1]) == pytest.approx(middle((1, 12)), abs=0.5)
    (dots,) = (c for c in sheet.figure().axes[0].collections if isinstance(c, PathCollection))
    x, y = np.asarray(dots.get_offsets())[0]
    place = middle_panel[1]
    assert (x - place[0]) / (place[2] - place[0]) * 60 == pytest.approx(11)
    assert (y - place[1]) / (place[3] - place[1]) * 40 == pytest.approx(25)
    np.testing.assert_allclose(dots.get_facecolor()[0], (1, 0, 0, 1))
    assert "1: token at (11, 25)" in texts(sheet) and "encoder.0.self" in sheet.caption


def test_heads_of_a_point_are_encoder_heads() -> None:
    row, column, looks_at = 6, 2, [(1, 12), (8, 3)]
    heads = []
    for cell in looks_at:
        heads.append([(0, 0)] * (FINE.height * FINE.width))
        heads[-1][row * FINE.width + column] = cell
    sheet = draw(made({"encoder.0.self": peaked(heads)}), "heads", ViewOptions(points=((11.0, 25.0),)))
    shown = images(sheet)  # a picture and a map for each head, and for their mean
    for head, cell in enumerate(looks_at):
        (_, panel), veil = shown[2 * head : 2 * head + 2]
        assert brightest(*veil, panel) == pytest.approx(middle(cell), abs=0.5)
    assert "self-attention at encoder.0.self, token at (11, 25)" in sheet.caption
    assert {"head 0", "head 1", "mean of heads", "layer 0"} <= set(texts(sheet))


def test_sampling_points_have_position_and_colour_of_weight() -> None:
    points = torch.tensor([[30.0, 20.0], [10.0, 6.0], [50.0, 35.0], [-20.0, 5.0]]).expand(1, 3, 4, 2)
    weights = torch.tensor([0.1, 0.6, 0.2, 0.1]).expand(1, 3, 4)
    record = sampled(points, weights, (0, 0, 1, 0))
    trace = made({"decoder.1.cross": record}, (FINE, COARSE))
    found = sampling_points(trace, "decoder.1.cross", 2)
    np.testing.assert_allclose(found.xy[0], points[0, 2], atol=1e-4)
    sheet = draw(trace, "points")
    panel = images(sheet)[0][1]
    fine = sheet.figure().axes[0].collections[1]  # over the coarse one
    place = (np.asarray(fine.get_offsets()) - panel[:2]) / (panel[2] - panel[0]) * 60
    np.testing.assert_allclose(place, [[30, 20], [10, 6]], atol=1e-3)  # the weakest first, none outside
    lightness = fine.get_facecolor()[:, :3].sum(-1)
    assert lightness[1] > lightness[0] and fine.get_facecolor()[1, 3] > fine.get_facecolor()[0, 3]
    assert "4 points, 1 outside the image" in texts(sheet) and "3 points, 1 outside the image" in texts(sheet)
    assert "level 1" in texts(sheet) and "level 1 (6x9 tokens)" in texts(sheet)
    assert "sums to 0.900" in texts(sheet), "one tenth fell outside; nothing is renormalised"


def test_close_points_are_zoomed_in() -> None:
    xy = torch.tensor([[20.0, 15.0], [22.0, 16.0]]).expand(1, 3, 2, 2)
    trace = made(
        {
            "decoder.1.cross": sampled(
                xy, torch.full((1, 3, 2), 0.5), (0, 0), torch.tensor([[21.0, 15.0]] * 3)
            )
        },
        (FINE, COARSE),
    )
    whole = Viewport.of(trace)
    near = whole.zoomed_to(xy[0, 0].numpy())
    x0, y0, x1, y1 = near.window
    assert (x1 - x0) / (y1 - y0) == pytest.approx(1.5) and 0.15 < (x1 - x0) / 60 < 0.3
    assert (x0 + x1) / 2 == pytest.approx(21, abs=0.1)
    corner = whole.zoomed_to(np.array([[0.0, 0.0], [1.0, 1.0]])).window
    assert corner[:2] == (0, 0), "a window does not leave the picture"
    assert whole.zoomed_to(np.array([[0.0, 0.0], [60.0, 40.0]])) is whole
    assert "zoomed in" in VIEWS["points-heads"](trace, ViewOptions()).caption


def test_incoming_queries_are_sorted_by_weight() -> None:
    record = peaked([[(2, 5), (0, 0), (2, 5)], [(2, 5), (0, 0), (1, 1)]])
    sheet = draw(made({"decoder.1.cross": record}), "incoming", ViewOptions(points=(middle((2, 5)),)))
    bars = sheet.figure().axes[1]
    names = [t.get_text() for t in bars.get_yticklabels()]
    assert [name.split(" (")[0] for name in names] == ["query 0", "query 2"], "query 1 looks away"
    widths = [p.get_width() for p in bars.patches]  # type: ignore[attr-defined]
    assert widths == pytest.approx([1.0, 0.5], abs=1e-5)
    assert "1.5 in all" in sheet.caption


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


def test_features_are_ranked_by_mean_on_the_image() -> None:
    maps = torch.zeros(5, 12, 18)
    for channel, strength in enumerate((1.0, 5.0, 0.0, 3.0, -4.0)):
        maps[channel, 3, 7] = strength
    maps[2, 11, 17] = 100  # on padding
    trace = made({}, features={"backbone.conv1": maps})
    feature = FeatureMaps.of(trace, "backbone.conv1", 4)
    assert feature.channels == [1, 4, 3, 0] and feature.maps.shape == (4, 10, 15) and feature.count == 5
    assert feature.extent == (0, 0, 60, 40)
    titles = [t for t in texts(draw(trace, "features")) if t.startswith("channel ")]
    assert [t.split(":")[0] for t in titles] == [
        "channel 1",
        "channel 4",
        "channel 3",
        "channel 0",
        "channel 2",
    ]


def test_comparison_shows_where_maps_differ() -> None:
    first = made({"decoder.1.cross": peaked([[(0, 0), (0, 0), (2, 5)]])})
    second = made(
        {"decoder.1.cross": peaked([[(0, 0), (0, 0), (7, 10)]])}, edits=(Gain("decoder.1.cross", 1.0),)
    )
    same = images(draw(first, "compare", ViewOptions(against=first)))[-1][0]
    assert same[..., 3].max() == 0
    sheet = draw(first, "compare", ViewOptions(against=second))
    (values, place), panel = images(sheet)[-1], images(sheet)[-2][1]
    seen = values.astype(float) * (values[..., 3:] > 150)
    less, more = seen[..., 0] - seen[..., 2], seen[..., 2] - seen[..., 0]  # orange, purple
    for sign, cell in ((less, (2, 5)), (more, (7, 10))):
        assert brightest(np.clip(sign, 0, None)[..., None], place, panel) == pytest.approx(
            middle(cell), abs=1.5
        )
    assert "edited (gain 1 at decoder.1.cross)" in sheet.caption and "the same query in both" in sheet.caption


def test_traces_of_other_images_are_not_compared() -> None:
    first = made({"decoder.1.cross": peaked([[(0, 0), (0, 0), (2, 5)]])})
    hidden = first.image.clone()
    hidden[:, :40] = 255  # half of it
    draw(first, "compare", ViewOptions(against=replace(first, image=hidden)))
    other = replace(first, image=torch.full_like(first.image, 255), source="other.png")
    with pytest.raises(
        UserError, match=r"traces of different images: the first and other.png differ in 100%"
    ):
        draw(first, "compare", ViewOptions(against=other))


def test_only_detections_are_cut_to_the_best() -> None:
    record = peaked([[(2, 5)] * 30])
    logits = torch.full((2, 30, 4), 0.1)
    logits[:, :, 1] = torch.linspace(0.6, 0.9, 30)
    trace = made({"decoder.1.cross": record}, logits=logits.log(), boxes_cxcywh=torch.full((2, 30, 4), 0.4))
    sheet = draw(trace, "per-query")
    assert "the best 21 of 30 detections" in sheet.caption and "21 of 30 queries" in sheet.heading
    assert sum(t.startswith("query ") for t in texts(sheet)) == 21
    chosen = draw(trace, "per-query", ViewOptions(queries=tuple(range(24))))
    assert "the best" not in chosen.caption and "24 of 30 queries" in chosen.heading
    labels = [t for t in texts(draw(trace, "mean")) if t.startswith("dog ")]
    assert len(labels) <= 20


def test_picked_queries_are_paired_by_overlap() -> None:
    first = made({"decoder.1.cross": peaked([[(0, 0), (0, 0), (2, 5)]])}, notes={"epoch": 10})
    alike = ("the same query in both", "whose box overlaps most")
    edited = (Gain("decoder.1.cross", 1.0),), (Gain("encoder.0.self", 1.0),)
    for changes, expected in (
        ({"notes": {"epoch": 90}}, alike[0]),  # learned queries keep their numbers
        ({"notes": {"epoch": 90}, "picked": True}, alike[1]),
        ({"picked": True}, alike[0]),
        ({"picked": True, "edits": edited[0]}, alike[0]),
        ({"picked": True, "edits": edited[1]}, alike[1]),
    ):
        second = replace(first, **changes)
        assert expected in draw(first, "compare", ViewOptions(against=second)).caption, changes


def test_maps_on_other_grids_are_compared_by_mass() -> None:
    first = made({"decoder.1.cross": peaked([[(0, 0), (0, 0), (2, 5)]])})
    coarse = made({"decoder.1.cross": peaked([[(0, 0), (0, 0), (1, 2)]], COARSE)}, (COARSE,))
    card = replace(first.card, variant="another")
    sheet = draw(first, "compare", ViewOptions(against=replace(coarse, card=card)))
    fine, wide = (values for values, _ in images(sheet)[3::2][:2])
    assert fine.shape == wide.shape
    assert (fine[..., 3] > 20).sum() < (wide[..., 3] > 20).sum(), "the same mass over a larger cell"
    assert "whose box overlaps most" in sheet.caption and "query 2 (dog 0.90)" in texts(sheet)


def test_attention_map_draws_itself() -> None:
    trace = made({"decoder.1.cross": peaked([[(0, 0), (0, 0), (2, 5)]])})
    attention = trace.cross_attention(query=2)
    sheet = draw_attention(attention)
    picture, veil = images(sheet)[:2]
    assert brightest(*veil, picture[1]) == pytest.approx(middle((2, 5)), abs=0.3)
    assert attention.caption in sheet.caption and attention._repr_png_().startswith(b"\x89PNG")
    values, extent = visible_cells(attention)
    assert values.shape == (10, 15) and extent == (0, 0, 60, 40)


def test_crop_without_original_shows_the_crop() -> None:
    geometry = replace(GEOMETRY, width=100, crop_xyxy=(20.0, 0.0, 80.0, 40.0))
    trace = made({"decoder.1.cross": peaked([[(0, 0), (0, 0), (2, 5)]])}, geometry=geometry)
    assert Viewport.of(trace).window == (20, 0, 80, 40)
    original = torch.zeros(3, 40, 100, dtype=torch.uint8)
    assert Viewport.of(replace(trace, original=original)).window == (0, 0, 100, 40)
    attention = map_of_rows(trace, Selection("decoder.1.cross", (2,)), "query 2")
    assert visible_cells(attention)[1] == (20, 0, 80, 40)
