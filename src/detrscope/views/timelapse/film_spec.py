"""What all films share: which moments, images and queries, and how a picture lies under a map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from detrscope.core.attention_map import AttentionMap, Selection, parts_of
from detrscope.core.errors import UserError, nearest
from detrscope.core.snapshot import ProbeSnapshot, Recording
from detrscope.core.trace_data import TraceData
from detrscope.views.canvas import (
    WHITE,
    Drawing,
    Panel,
    PixelFigure,
    class_colours,
    text_colour_on,
    text_size,
)
from detrscope.views.label_placement import place_labels

TYPE = 12  # pixels, of labels on pictures
CROWD = 8  # true boxes in a picture; of more the lines are thin

Over = Literal["found", "all"]
Rect = tuple[float, float, float, float]  # x, y, width, height


@dataclass(frozen=True)
class FilmOptions:
    """What the films of a run are about.

    Attributes:
        images: names of probe images.
        layer: of the decoder, counted from the end where negative.
        over: merge over the queries that found something, or over all queries of the model.
        threshold: the least score of a query that counts as found.
        query: for `queries`: only the one that has this number in the last look.
        site: for `features`: the channels of this convolution, in place of all convolutions.
    """

    images: tuple[str, ...]
    layer: int = -1
    over: Over = "found"
    threshold: float = 0.4
    query: int | None = None
    site: str | None = None

    @classmethod
    def of(
        cls,
        watched: Recording,
        image: str | None = None,
        layer: int = -1,
        over: Over = "found",
        threshold: float = 0.4,
        query: int | None = None,
        site: str | None = None,
    ) -> FilmOptions:
        """A choice that this run can satisfy; all images where none is named.

        Raises:
            UserError: it has no such image, layer, query or site.
        """
        if image is not None and image not in watched.images:
            raise UserError(f"image '{image}' was not watched; {nearest(image, watched.images)}")
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold {threshold:g}: expected a score between 0 and 1")
        names = tuple(watched.images) if image is None else (image,)
        look = watched.moments[-1].looks[names[0]]
        layers = len(look.attention)
        if not -layers <= layer < layers:
            raise UserError(f"layer {layer}: this model has decoder layers 0 to {layers - 1}")
        for name in names:
            kept = watched.moments[-1].looks[name].query_ids.tolist()
            if query is not None and query not in kept:
                raise UserError(f"query {query} is not among those kept in the last look at '{name}': {kept}")
        if site is not None and site not in look.features:
            known = (
                nearest(site, look.features)
                if look.features
                else "none: train with --train.recording.features=4"
            )
            raise UserError(f"site '{site}': no features of it were kept; {known}")
        return cls(names, layer, over, threshold, query, site)


@dataclass(frozen=True)
class FilmSpec:
    """One film: its frames by the number of the moment, all of one size."""

    name: str  # of its file
    frames: int
    draw: Callable[[int], Drawing]


def heading(watched: Recording, index: int, about: str = "") -> str:
    """What moment a frame shows."""
    moment = watched.moments[index]
    trace = next(iter(watched.images.values()))
    when = "before training" if moment.step == 0 else f"epoch {moment.epoch:.3g}, step {moment.step}"
    return f"{trace.card.variant}{f', {about}' if about else ''}: {when} of {watched.moments[-1].step}"


def site_name(layer: int, look: ProbeSnapshot) -> str:
    """The attention site of a decoder layer."""
    return f"decoder.{layer % len(look.attention)}.cross"


def found_queries(look: ProbeSnapshot, trace: TraceData, choice: FilmOptions) -> list[int]:
    """Places of the queries that found something, best first."""
    best = look.scores(trace.card.scoring, choice.layer).amax(1)  # [n]
    return [i for i in best.argsort(descending=True).tolist() if best[i] >= choice.threshold]


def merged_row(look: ProbeSnapshot, trace: TraceData, choice: FilmOptions) -> Tensor:
    """Attention merged over heads and queries: [S]."""
    if choice.over == "all":
        return look.everyone(choice.layer)
    found = found_queries(look, trace, choice)
    best = int(look.scores(trace.card.scoring, choice.layer).amax(1).argmax())
    return look.rows(choice.layer)[found or [best]].mean(0)


def merging(choice: FilmOptions) -> str:
    """How `merged_row` merges, in words."""
    if choice.over == "all":
        return "mean over heads and all queries"
    return f"mean over heads and the queries that score at least {choice.threshold:g} (else the best one)"


def map_values(row: Tensor, trace: TraceData) -> np.ndarray:
    """Attention over all tokens as one map: [S] -> [H, W]; of several levels the mass in each cell of the finest."""
    parts = parts_of(row, trace.levels)
    one = AttentionMap(parts, tuple(range(len(parts))), trace.geometry, trace.image, Selection("merged"))
    return one.values.numpy()


def size_in(trace: TraceData, width: float, height: float) -> tuple[float, float]:
    """Width and height of an image that fits into a rectangle."""
    scale = min(width / trace.geometry.width, height / trace.geometry.height)
    return trace.geometry.width * scale, trace.geometry.height * scale


def picture_panel(sheet: PixelFigure, rect: Rect, trace: TraceData, *, grey: bool = True) -> Panel:
    """A probe image in the middle of a rectangle, in pixels of the original."""
    x, y, width, height = rect
    across, down = size_in(trace, width, height)
    window = (0.0, 0.0, float(trace.geometry.width), float(trace.geometry.height))
    panel = sheet.panel(x + (width - across) / 2, y + (height - down) / 2, across, down, window)
    panel.image(trace.image.permute(1, 2, 0).contiguous().numpy(), grey=grey)
    return panel


def dashed(*traces: TraceData) -> str:
    """What dashed boxes are, for a caption; nothing where no picture has any."""
    known = [truth for trace in traces if (truth := trace.targets_xyxy) is not None]
    return "; dashed: truth" if any(len(truth) for truth in known) else ""


def draw_truth(panel: Panel, trace: TraceData) -> None:
    """The true boxes, dashed."""
    if (truth := trace.targets_xyxy) is not None:
        boxes = truth.tolist()
        for box in boxes:
            panel.box(box, WHITE, dashed=True, width=2.0 if len(boxes) <= CROWD else 1.0)


def draw_found(
    panel: Panel, look: ProbeSnapshot, trace: TraceData, layer: int, places: Sequence[int]
) -> None:
    """The boxes of some queries with class and score, best first."""
    if not places:
        return
    colours = class_colours(trace.classes.names)
    scores, labels = look.scores(trace.card.scoring, layer)[list(places)].max(1)
    boxes = trace.geometry.boxes_xyxy(look.boxes(layer)[list(places)])
    width, height = trace.geometry.width, trace.geometry.height
    boxes = boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
    names = [trace.classes.names[i] for i in labels.tolist()]
    texts = [f"{name} {score:.2f}" for name, score in zip(names, scores.tolist(), strict=True)]
    sizes = [text_size(text, TYPE) for text in texts]
    frame = (0.0, 0.0, panel.width, panel.height)
    where = place_labels(boxes.double().numpy() * panel.scale, sizes, frame)
    for box, name in zip(boxes.tolist(), names, strict=True):
        panel.box(box, colours[name])
    for text, name, place in zip(texts, names, where, strict=True):
        if place is not None:
            xy = (place[0] / panel.scale, place[1] / panel.scale)
            panel.label(
                text, xy, size=TYPE, background=colours[name], text_colour=text_colour_on(colours[name])
            )


def grid_of(
    count: int, aspect: float, width: float, height: float, gap: float, above: float = 0
) -> list[Rect]:
    """Places for pictures in reading order, as large as they can be.

    Args:
        count: of pictures.
        aspect: height of a picture for a width of 1.
        width: of the whole.
        height: of the whole.
        gap: between pictures.
        above: room over each picture, for its title; the places are without it.
    """
    best: tuple[float, int] = (0.0, 1)
    for columns in range(1, count + 1):
        rows = -(-count // columns)
        side = min((width + gap) / columns - gap, ((height + gap) / rows - gap - above) / aspect)
        best = max(best, (side, columns))
    side, columns = best
    tall = side * aspect
    return [
        (i % columns * (side + gap), above + i // columns * (tall + above + gap), side, tall)
        for i in range(count)
    ]
