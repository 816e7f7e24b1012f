"""Pointing games of explanations against annotated regions: an object's box, or its badge, a planted shortcut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from detrscope.console import log
from detrscope.core.attention_map import AttentionMap
from detrscope.core.classes import ClassTable
from detrscope.core.trace_data import TraceData
from detrscope.data.badge_masks import read_badge_mask
from detrscope.data.dataset import Annotation, DetectionDataset, ImageInfo
from detrscope.evaluation.object_matching import LabelledBoxes, match_objects
from detrscope.explain.explainers import ExplainInput
from detrscope.lens.explained import ExplainedDetection, map_of_weights
from detrscope.lens.pointing import Pointed, play_pointing_games

Region = Literal["box", "badge"]
EXAMPLES = 3  # detections whose maps are kept for a picture
KNOWN = "the region itself"  # a map that knows the answer: what the size of the tokens allows at best


class PointingGames:
    """Pointing games of all methods over the detections of a dataset.

    A detection takes part where it matches an annotated object of its class, IoU 0.5 or more, one-to-one.

    Args:
        classes: classes of the model.
        dataset: annotations of the images.
        region: where the maximum of a map is expected.

    Attributes:
        outcomes: of every map so far.
        unmatched: detections so far without a region.
        examples: maps of the first detections with a region.
    """

    def __init__(self, classes: ClassTable, dataset: DetectionDataset, region: Region) -> None:
        self.classes = classes
        self.dataset = dataset
        self.region = region
        self.outcomes: list[Pointed] = []
        self.unmatched = 0
        self.examples: list[ExplainedDetection] = []

    def regions(self, image: ImageInfo, cases: Sequence[ExplainInput]) -> list[Tensor | None]:
        """Return the region of each detection of an image, [H, W] bool; None where it matches no object.

        Args:
            image: the image, of the dataset.
            cases: its detections, best first.

        Raises:
            UserError: badges are the region, and the image has no badge mask.
        """
        regions: list[Tensor | None] = [None] * len(cases)
        rows = self.dataset.annotations[image.id]
        if cases and rows:
            for row, detection in self._matches(cases, rows):
                region = self._region(image, row, rows[row], cases[detection].trace)
                regions[detection] = (
                    region if bool(region.any()) else None
                )  # a badge may be hidden by another
        self.unmatched += sum(region is None for region in regions)
        return regions

    def play(
        self, case: ExplainInput, weights: Sequence[tuple[str, Tensor]], region: Tensor | None, number: int
    ) -> None:
        """Play the games of all methods for one detection.

        Args:
            case: the detection.
            weights: names of the methods and their weights of all tokens [S].
            region: of the detection, [H, W] bool; None leaves it out.
            number: index of the detection over all images.
        """
        if region is None:
            return
        trace = case.trace
        tolerance = half_cell(trace)
        maps: dict[str, AttentionMap] = {}
        for method, ranking in [*weights, (KNOWN, _cell_means_of_original(trace, region))]:
            found = map_of_weights(trace, ranking, trace.geometry)
            self.outcomes.append(play_pointing_games(found.on_image(), region, tolerance, method, number))
            maps.setdefault(method, map_of_weights(trace, ranking - ranking.min(), trace.geometry))
        if len(self.examples) < EXAMPLES:
            rows, columns = region.nonzero().unbind(-1)
            corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            self.examples.append(ExplainedDetection(trace, case.detected.query, torch.stack(corners), maps))

    def report(self) -> None:
        """Log how many detections took no part."""
        if self.unmatched:
            what = (
                "an annotated object of their class" if self.region == "box" else "a dog with a visible badge"
            )
            log.info(
                "left out of the pointing games: %d detections that do not match %s", self.unmatched, what
            )

    def _matches(self, cases: Sequence[ExplainInput], rows: Sequence[Annotation]) -> list[tuple[int, int]]:
        """Return pairs of an annotation and the detection that matches it, as indices."""
        known = {name: index for index, name in enumerate(self.classes.names)}
        names = [self.dataset.classes.name_of(row.category_id) for row in rows]
        usable = [i for i, row in enumerate(rows) if not row.iscrowd and names[i] in known]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (rows[i].bbox_xywh for i in usable)]
        labels = torch.tensor([known[names[i]] for i in usable], dtype=torch.int64)
        objects = LabelledBoxes(torch.tensor(corners).reshape(-1, 4), labels)
        boxes = torch.stack([case.trace.geometry.boxes_xyxy(case.detected.box_cxcywh) for case in cases])
        found = LabelledBoxes(boxes, torch.tensor([case.detected.class_index for case in cases]))
        matched = match_objects(objects, found).tolist()
        return [(usable[i], detection) for i, detection in enumerate(matched) if detection >= 0]

    def _region(self, image: ImageInfo, row: int, annotation: Annotation, trace: TraceData) -> Tensor:
        if self.region == "badge":
            return torch.from_numpy(read_badge_mask(image.path) == row + 1)
        x, y, width, height = annotation.bbox_xywh
        region = torch.zeros(trace.geometry.height, trace.geometry.width, dtype=torch.bool)
        region[int(y) : max(int(y) + 1, round(y + height)), int(x) : max(int(x) + 1, round(x + width))] = True
        return region


def _cell_means_of_original(trace: TraceData, pixels: Tensor) -> Tensor:
    """Return the mean over each token's cell, [S], of values for the pixels of the original [H, W]."""
    return torch.cat([trace.geometry.cell_means(pixels, level).flatten() for level in trace.levels])


def half_cell(trace: TraceData) -> float:
    """Return half the longer side of a token's cell of the finest level, in pixels of the original.

    The tolerance of the pointing game, 15 pixels of photographs in the paper: a map of tokens has its maximum in the
    middle of a cell, so it hits a region that reaches into the cell.
    """
    finest = max(trace.levels, key=lambda level: level.tokens)
    (rows, columns), (across, down) = trace.geometry.padded, trace.geometry.scale
    return max(rows / finest.height / down, columns / finest.width / across) / 2
