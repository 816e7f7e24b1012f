"""The parts that all films share: options, frames, and one probe image over the steps of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from detrscope.core.attention_map import AttentionMap, Selection
from detrscope.core.errors import UserError, suggest_nearest
from detrscope.core.snapshot import ProbeSnapshot, Recording, snapshot_prediction_layer
from detrscope.core.trace_data import TraceData
from detrscope.lens.maps import map_of_row, map_of_rows
from detrscope.views.canvas import Drawing, Panel, PixelFigure, Scale, header_and_footer, shorten_to_width
from detrscope.views.canvas.figure import MARGIN
from detrscope.views.grid import largest_panel_grid
from detrscope.views.selection import QueryPrediction, shown_predictions
from detrscope.views.viewport import Rect, Viewport, draw_boxes, draw_ground_truth, draw_map, viewport_cells

MANY_BOXES = 8  # annotated boxes in an image; of more the lines are thin
WIDTH, HEIGHT = 1280, 720  # pixels, of a film with a grid of panels
TITLE = 13  # pixels, font size above a panel
GAP = 10  # pixels between panels
OWN_PEAK = (
    "in each frame colours begin at even attention and reach the map's own peak, or 4 times even attention"
)
NO_FEATURES = "no features were recorded; train with train.recording.features=4"

AveragedQueries = Literal["detected", "all"]


@dataclass(frozen=True)
class FilmOptions:
    """Options of timelapse films.

    Attributes:
        image: name of a probe image; None is all of them.
        layer: decoder layer, from the end where negative.
        queries: the queries whose attention is averaged: those that are detected, or all of the model.
        threshold: minimum score of a detected query.
        query: for `queries`: index of the only query to show, in the last snapshot.
        site: for `features`: the convolution whose channels are shown, instead of all convolutions.
    """

    image: str | None = None
    layer: int = -1
    queries: AveragedQueries = "detected"
    threshold: float = 0.4
    query: int | None = None
    site: str | None = None

    def check(self, recording: Recording) -> None:
        """Raise where the recording has no such image, layer, query or site.

        Raises:
            UserError: naming the option and what the recording has.
        """
        if self.image is not None and self.image not in recording.images:
            raise UserError(
                f"image '{self.image}' is not a probe image of this run;"
                f" {suggest_nearest(self.image, recording.images)}"
            )
        if not 0 <= self.threshold <= 1:
            raise UserError(f"threshold {self.threshold:g}: expected a score between 0 and 1")
        last = recording.steps[-1].snapshots
        for name in self.images(recording):
            snapshot = last[name]
            layers, queries = len(snapshot.records), snapshot.query_ids.tolist()
            if not -layers <= self.layer < layers:
                raise UserError(f"layer {self.layer}: this model has decoder layers 0 to {layers - 1}")
            if self.query is not None and self.query not in queries:
                raise UserError(
                    f"query {self.query} is not stored in the last snapshot of '{name}'; stored are {queries}"
                )
            if self.site is not None and self.site not in snapshot.features:
                if not snapshot.features:
                    raise UserError(f"site '{self.site}': {NO_FEATURES}")
                known = suggest_nearest(self.site, snapshot.features)
                raise UserError(f"site '{self.site}': its features were not recorded; {known}")

    def images(self, recording: Recording) -> list[str]:
        """Return the names of the images to show."""
        return list(recording.images) if self.image is None else [self.image]


@dataclass(frozen=True)
class FilmSpec:
    """One film: its frames by index, all of one size."""

    name: str  # of its file
    frames: int
    draw: Callable[[int], Drawing]


class ProbeFilm:
    """One probe image over the steps of training, and how a frame shows it.

    Args:
        recording: the recording.
        name: name of the image.
        options: layer, averaged queries and threshold.
    """

    def __init__(self, recording: Recording, name: str, options: FilmOptions) -> None:
        self.recording, self.name, self.options = recording, name, options
        self.snapshots: list[ProbeSnapshot] = recording.snapshots(name)
        self.traces: list[TraceData] = recording.traces(name)
        self.viewport = Viewport.of(recording.images[name])
        self.site = self.traces[-1].site("decoder.cross", options.layer)

    def spec(self, view: str, draw: Callable[[int], Drawing]) -> FilmSpec:
        """Return the film of this image that a function draws frame by frame."""
        return FilmSpec(f"{self.name}-{view}", len(self.traces), draw)

    def heading(self, index: int, about: str = "") -> str:
        """Return the heading of a frame about this image."""
        return film_heading(self.recording, index, self.name + (f", {about}" if about else ""))

    def detected(self, index: int) -> list[int]:
        """Return the stored queries that reach the threshold, best first."""
        scores = self._best_scores(index)
        order: list[int] = scores.argsort(descending=True).tolist()
        return [query for query in order if scores[query] >= self.options.threshold]

    def attention(self, index: int) -> AttentionMap:
        """Return the attention averaged over heads and queries."""
        trace = self.traces[index]
        if self.options.queries == "all":
            row = self.snapshots[index].mean_rows[self.site].float()
            return map_of_row(trace, row, Selection(self.site), "mean of all queries")
        queries = self.detected(index) or [int(self._best_scores(index).argmax())]
        return map_of_rows(trace, Selection(self.site, tuple(queries)), "mean of the detected queries")

    def query_attention(self, index: int, query: int, layer: int) -> AttentionMap:
        """Return the attention of one stored query in a decoder layer, averaged over heads."""
        trace = self.traces[index]
        return map_of_rows(trace, Selection(trace.site("decoder.cross", layer), (query,)), f"query {query}")

    def predictions(self, index: int, queries: Sequence[int], layer: int) -> list[QueryPrediction]:
        """Return what some stored queries predict in a decoder layer."""
        trace = self.traces[index]
        return shown_predictions(trace, queries, snapshot_prediction_layer(trace, layer))

    def title(self, index: int, query: int, layer: int) -> str:
        """Return index, class and score of a stored query, such as `query 37, dog 0.98`."""
        (prediction,) = self.predictions(index, [query], layer)
        return f"query {int(self.snapshots[index].query_ids[query])}, {prediction.label}"

    def panel(self, figure: PixelFigure, rect: Rect, attention: AttentionMap) -> Panel:
        """Return a panel with a map over the image, on a colour scale of its own."""
        panel = self.viewport.panel_in(figure, rect, grey=True)
        draw_map(panel, attention, Scale.from_even(viewport_cells(attention)[0]))
        return panel

    def draw_boxes(self, panel: Panel, index: int, queries: Sequence[int], layer: int) -> None:
        """Draw the annotated boxes, and those that some queries predict with class and score."""
        targets = self.traces[index].targets_xyxy
        many = targets is not None and len(targets) > MANY_BOXES
        draw_ground_truth(panel, targets, 1.0 if many else 2.0)
        shown = self.predictions(index, queries, layer)
        draw_boxes(panel, shown, [prediction.label for prediction in shown], max_overlap=0)

    @property
    def averaged(self) -> str:
        """Heads and queries that `attention` averages over, in words."""
        if self.options.queries == "all":
            return "mean over heads and all queries"
        return f"mean over heads and the queries that score at least {self.options.threshold:g} (else the best one)"

    @property
    def dashed_note(self) -> str:
        """Meaning of dashed boxes, for a caption; empty without annotated boxes."""
        targets = self.recording.images[self.name].targets_xyxy
        return "; white, dashed: ground truth" if targets is not None and len(targets) else ""

    def _best_scores(self, index: int) -> Tensor:
        trace = self.traces[index]
        return trace.scores(snapshot_prediction_layer(trace, self.options.layer)).amax(1)  # [n]


def film_heading(recording: Recording, index: int, about: str = "") -> str:
    """Return the heading of a frame: model, subject, epoch and step."""
    step = recording.steps[index]
    variant = next(iter(recording.images.values())).card.variant
    when = "before training" if step.step == 0 else f"epoch {step.epoch:.3g}, step {step.step}"
    of = f" of {recording.steps[-1].step}" if len(recording.steps) > 1 else ""
    return f"{variant}{f', {about}' if about else ''}: {when}{of}"


def film_grid_figure(
    heading: str, caption: str, titles: Sequence[str], viewport: Viewport
) -> tuple[PixelFigure, list[Rect]]:
    """Return a figure with titles over equal panels of an image's shape, and the rectangles of the panels."""
    height = HEIGHT - sum(header_and_footer(WIDTH, heading, caption))
    across, down = viewport.size_within(1, 1)
    rects = largest_panel_grid(len(titles), down / across, WIDTH - 2 * MARGIN, height, GAP, above=TITLE + 8)
    left = (WIDTH - max(x + w for x, _, w, _ in rects)) / 2
    figure = PixelFigure(WIDTH, round(max(y + h for _, y, _, h in rects)), heading, caption)
    rects = [(x + left, y, w, h) for x, y, w, h in rects]
    for title, (x, y, w, _) in zip(titles, rects, strict=True):
        figure.text(shorten_to_width(title, TITLE, w), x, y - TITLE - 5, size=TITLE)
    return figure, rects
