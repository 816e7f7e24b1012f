"""Two traces of one picture side by side, and their difference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch.nn.functional import adaptive_avg_pool2d

from detrscope.core.attention_map import AttentionMap
from detrscope.core.errors import UserError
from detrscope.core.trace_data import TraceData
from detrscope.views.canvas import PixelFigure, Scale
from detrscope.views.captions import brief, caption, heads, model, over, short, sums
from detrscope.views.grid import PanelGrid, panel_size
from detrscope.views.options import (
    DEFAULT_OPTIONS,
    NotInTrace,
    ShownQuery,
    ViewOptions,
    maps_of,
    predictions,
    shown_queries,
    site_of,
)
from detrscope.views.viewport import Viewport, corner_text, outline, plane

MOST = 4  # queries
SIDE = 320
GRID = 96  # cells along the longer side where the tokens of two models do not coincide
COARSE, UNLIKE = (
    24,
    0.06,
)  # cells a side in which two pictures are compared, and the difference of unlike ones, of 1
Seen = tuple[np.ndarray, tuple[float, float, float, float]]  # a map, and where its corners lie


def draw_comparison(trace: TraceData, choice: ViewOptions = DEFAULT_OPTIONS) -> PixelFigure:
    """Above, what both found; then for each query both maps on one scale, and the second less the first.

    Raises:
        NotInTrace: there is nothing to compare with.
        UserError: the pictures are of different sizes, or nothing was found.
    """
    other = choice.against
    if other is None:
        raise NotInTrace("nothing to compare with; give another trace of the picture, or a model (--against)")
    _check_same_picture(trace, other)
    shown = shown_queries(trace, choice)[:MOST]
    same = _numbered_alike(trace, other)
    queries = [one.query for one in shown]
    partners = predictions(other, queries if same else _partners(other, shown))
    _, site = site_of(trace, "decoder.cross", choice)
    _, other_site = site_of(other, "decoder.cross", choice)
    before = maps_of(trace, site, queries, choice)
    after = maps_of(other, other_site, [one.query for one in partners], choice)
    tiles = PanelGrid(panel_size(Viewport.of(trace), 3, SIDE), 3, 1 + len(shown), lines=1)
    pairing = "the same query in both" if same else "in the second, the query whose box overlaps most"
    about = caption(
        f"first: {_about(trace, site, choice)}, {sums(before)}",
        f"second: {_about(other, other_site, choice)}, {sums(after)}",
        pairing,
        "colours of both maps run from 0 to the greater peak",
        "difference: orange is less, purple more",
    )
    sheet = tiles.sheet("Two looks at one picture", about)
    for column, (one, boxes) in enumerate(
        ((trace, shown_queries(trace, choice)), (other, _found(other, choice)))
    ):
        tiles.title(sheet, 0, column, f"{('first', 'second')[column]}: {brief(one)} found {len(boxes)}")
        panel = Viewport.of(one).panel(sheet, tiles.place(0, column), tiles.size)
        outline(panel, boxes, [f"{box.says}  #{box.query}" for box in boxes])
    for row, (a, b, mine, its) in enumerate(zip(before, after, shown, partners, strict=True), start=1):
        titles = (f"{mine.title} ({mine.says})", f"{its.title} ({its.says})", "second less first")
        for column, title in enumerate(titles):
            tiles.title(sheet, row, column, title)
        frames = (Viewport.of(trace, choice), Viewport.of(other, choice))
        _row(sheet, tiles, row, frames, (a, b), (mine, its))
    return sheet


def _about(trace: TraceData, site: str, choice: ViewOptions) -> str:
    return f"{model(trace)}, {site}, {heads(trace, site, choice)}, {over(trace, site, choice)}"


def _row(
    sheet: PixelFigure,
    tiles: PanelGrid,
    row: int,
    frames: tuple[Viewport, Viewport],
    maps: tuple[AttentionMap, AttentionMap],
    boxes: tuple[ShownQuery, ShownQuery],
) -> None:
    (first, extent), (second, _) = seen = _on_one_grid(*maps)
    scale = Scale.amounts(first, second)
    for column, (frame, (values, where), box) in enumerate(zip(frames, seen, boxes, strict=True)):
        panel = frame.panel(sheet, tiles.place(row, column), tiles.size, grey=True)
        panel.heat(values, scale, where)
        outline(panel, [box])
        corner_text(panel, short(values.max()))
    difference = second - first
    panel = frames[0].panel(sheet, tiles.place(row, 2), tiles.size, grey=True)
    panel.heat(difference, Scale.signed(difference), extent)
    corner_text(panel, f"{short(difference.min())} to {short(difference.max())}")


def _on_one_grid(first: AttentionMap, second: AttentionMap) -> tuple[Seen, Seen]:
    """Both maps cell by cell where their cells coincide, else as the mass in each cell of a fine grid."""
    one, other = plane(first), plane(second)
    if one[0].shape == other[0].shape and np.allclose(one[1], other[1]):
        return one, other
    return _fine(first), _fine(second)


def _fine(attention: AttentionMap) -> Seen:
    g = attention.geometry
    shrink = GRID / max(g.width, g.height)
    height, width = max(1, round(g.height * shrink)), max(1, round(g.width * shrink))
    across, down = width / g.width, height / g.height
    x0, y0, x1, y1 = g.crop_xyxy
    small = replace(g, height=height, width=width, crop_xyxy=(x0 * across, y0 * down, x1 * across, y1 * down))
    return replace(attention, geometry=small).on_image().numpy(), (0.0, 0.0, float(g.width), float(g.height))


def _numbered_alike(trace: TraceData, other: TraceData) -> bool:
    """Whether a number is the same query in both.

    Learned queries keep theirs while a model learns; picked ones only as long as all that they are picked from stays.
    """
    if trace.card != other.card:
        return False
    picked_alike = trace.notes == other.notes and all(
        edit.site.startswith("decoder.") for edit in (*trace.edits, *other.edits)
    )
    return picked_alike or not (trace.picked or other.picked)


def _partners(trace: TraceData, shown: list[ShownQuery]) -> list[int]:
    """The query of another model whose box overlaps each of these most."""
    boxes = trace.boxes_xyxy().numpy()  # [Q, 4]
    partners = []
    for one in shown:
        box = np.array(one.box_xyxy)
        low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
        both = np.clip(high - low, 0, None).prod(1)
        union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - both
        partners.append(int((both / np.maximum(union, 1e-9)).argmax()))
    return partners


def _found(trace: TraceData, choice: ViewOptions) -> list[ShownQuery]:
    """What the second trace found, which may be nothing."""
    return predictions(trace, list(dict.fromkeys(trace.detections(choice.threshold).query_ids.tolist())))


def _check_same_picture(trace: TraceData, other: TraceData) -> None:
    """Parts of it may have been changed, such as hidden; most of it must be the same."""
    first, second = trace.geometry, other.geometry
    if (first.width, first.height) != (second.width, second.height):
        raise UserError(
            f"cannot compare a picture of {first.width} x {first.height} pixels with one of {second.width} x "
            f"{second.height}: both traces must be of the same picture"
        )
    one, two = trace.original, other.original
    if one is None or two is None:
        if first.crop_xyxy != second.crop_xyxy:
            return  # unlike parts of it were seen, and the whole is not there to be compared
        one, two = trace.image, other.image
    small, its = (adaptive_avg_pool2d(picture.float(), COARSE) / 255 for picture in (one, two))
    unlike = ((small - its).abs().mean(0) > UNLIKE).float().mean()
    if float(unlike) > 0.5:
        raise UserError(
            f"cannot compare looks at different pictures: {trace.source or 'the first'} and "
            f"{other.source or 'the second'} differ in {unlike:.0%} of their area"
        )
