"""Trace data of one forward pass over one image: pixels, predictions, records, edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor

from detrscope.core.argument_check import check_method_arguments
from detrscope.core.boxes import cxcywh_to_xyxy, scale_boxes
from detrscope.core.classes import ClassTable
from detrscope.core.edits import Edit
from detrscope.core.errors import UserError, suggest_site
from detrscope.core.geometry import Geometry
from detrscope.core.model_card import ModelCard
from detrscope.core.postprocess import Scored, class_scores, postprocess
from detrscope.core.probe import Probe
from detrscope.core.records import DenseRecord, Gradient, Record
from detrscope.core.types import Detections, Level, Masks, Outputs, Regions, Target

Kind = Literal["backbone.self", "encoder.self", "decoder.self", "decoder.cross"]
TOKEN_KINDS: tuple[Kind, ...] = ("backbone.self", "encoder.self")  # of image tokens among themselves


def sites_of_kind(sites: Sequence[str], kind: Kind) -> list[str]:
    """Return the sites of one kind of attention, layer by layer, among all sites of a model."""
    stack, attention = kind.split(".")
    return [site for site in sites if site.startswith(f"{stack}.") and site.endswith(f".{attention}")]


@check_method_arguments
@dataclass(frozen=True, eq=False)
class TraceData:
    """Recorded data of one forward pass over one image.

    Attributes:
        card: family, variant, config, classes and preprocessing of the model.
        geometry: conversion to pixels of the original.
        image: uint8 [3, h, w], the model's input without padding.
        logits: [N, Q, K] float32 of every decoder layer, the last at -1.
        boxes_cxcywh: [N, Q, 4] float32, 0..1 of the image (of its crop, where there is one).
        levels: sizes of the feature maps that the tokens come from.
        model_sites: all attention sites of the model.
        records: attention records by site, each of a batch of one.
        features: feature maps [C, H, W] by site, where recorded.
        edits: interventions in the forward pass.
        gradients: gradients for relevance, where recorded.
        targets: ground truth, where known; boxes 0..1 of the whole original.
        regions: segmentation of the original, where known.
        original: uint8 [3, height, width], where stored.
        source: name of the file or URL.
        shapes: shapes of the tensors along the path by name, such as `feature map 0`.
        notes: free notes, such as the epoch.
        picked: whether the model selects its queries per image (two-stage); the same index is then another query
            with other weights.
        masks: masks of the last layer's queries, a batch of one; None where the model predicts none.
    """

    card: ModelCard
    geometry: Geometry
    image: Tensor
    logits: Tensor
    boxes_cxcywh: Tensor
    levels: tuple[Level, ...]
    model_sites: tuple[str, ...]
    records: Mapping[str, Record] = field(default_factory=dict)
    features: Mapping[str, Tensor] = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()
    gradients: tuple[Gradient, ...] = ()
    targets: Target | None = None
    regions: Regions | None = None
    original: Tensor | None = None
    source: str = ""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    notes: Mapping[str, str | int | float] = field(default_factory=dict)
    picked: bool = False
    masks: Masks | None = None

    @classmethod
    def of_probe(
        cls,
        probe: Probe,
        outputs: Outputs,
        index: int = 0,
        *,
        card: ModelCard,
        geometry: Geometry,
        image: Tensor,
        model_sites: Sequence[str],
    ) -> Self:
        """Return the trace data of one image of a batch, on the CPU; tensors on the CPU are not copied.

        Args:
            probe: probe of the forward pass.
            outputs: outputs of the forward pass.
            index: index of the image in the batch.
            card: card of the model.
            geometry: geometry of this image in this batch.
            image: uint8 [3, h, w], resized, without padding.
            model_sites: all attention sites of the model.
        """
        batch = outputs.logits.shape[1]
        return cls(
            card=card,
            geometry=geometry,
            image=image,
            logits=outputs.logits[:, index].detach().float().cpu(),
            boxes_cxcywh=outputs.boxes_cxcywh[:, index].detach().float().cpu(),
            levels=probe.levels,
            model_sites=tuple(model_sites),
            records={site: _one_of(record, index, batch) for site, record in probe.records.items()},
            features={site: maps[index].cpu() for site, maps in probe.feature_maps.items()},
            edits=probe.edits,
            gradients=probe.gradients,
            shapes=dict(probe.shapes),
            picked=outputs.proposals is not None,
            masks=None if outputs.masks is None else outputs.masks.of_image(index),
        )

    def __repr__(self) -> str:
        size = f"{self.geometry.width}x{self.geometry.height}"
        return f"Trace({self.card.variant}, {self.source or 'image'} {size}, {len(self.records)} sites)"

    @property
    def sites(self) -> tuple[str, ...]:
        """Attention sites with a record, in the order of the path."""
        return tuple(self.records)

    @property
    def classes(self) -> ClassTable:
        """Class names and original category ids."""
        return self.card.classes

    @property
    def queries(self) -> int:
        """Number of queries of the decoder."""
        return self.logits.shape[1]

    @property
    def tokens(self) -> int:
        """Number of image tokens, of all levels."""
        return sum(level.tokens for level in self.levels)

    def record(self, site: str) -> Record:
        """Return the record of a site, of a batch of one.

        Raises:
            UserError: the model has no such site, or it was not recorded.
        """
        if site in self.records:
            return self.records[site]
        if site in self.model_sites:
            recorded = ", ".join(self.records) or "none"
            raise UserError(
                f"site '{site}' was not recorded; this trace has {recorded}; record it with sites="
            )
        raise UserError(f"site '{site}' is not in this model; {suggest_site(site, self.model_sites)}")

    def site(self, kind: Kind, layer: int = -1) -> str:
        """Return the site of a layer, counted from the end where negative.

        Raises:
            UserError: the model has no such layer.
        """
        sites = self.sites_of(kind)
        if not -len(sites) <= layer < len(sites):
            raise UserError(f"layer {layer}: this model has {len(sites)} layers with {kind} attention")
        return sites[layer]

    def layers(self, kind: Kind) -> int:
        """Return the number of layers of the model with this kind of attention."""
        return len(self.sites_of(kind))

    def sites_of(self, kind: Kind) -> list[str]:
        """Return the sites of all layers of the model with this kind of attention, recorded or not."""
        return sites_of_kind(self.model_sites, kind)

    @property
    def token_kind(self) -> Kind:
        """Kind of attention among image tokens: the encoder's, or a backbone's where the encoder has none."""
        has_encoder = self.sites_of("encoder.self") or not self.sites_of("backbone.self")
        return "encoder.self" if has_encoder else "backbone.self"

    def levels_at(self, site: str) -> tuple[Level, ...]:
        """Return the sizes of the maps whose tokens a site's keys are: all of the trace's, but for some encoders."""
        record = self.records.get(site)
        own = record.levels if isinstance(record, DenseRecord) else None
        return own or self.levels

    def tokens_at(self, site: str) -> slice:
        """Return which tokens of the trace the keys of a site are; none where its maps are others, as a backbone's."""
        own = self.levels_at(site)
        for start in reversed(range(len(self.levels) - len(own) + 1)):
            if self.levels[start : start + len(own)] == own:
                before = sum(level.tokens for level in self.levels[:start])
                return slice(before, before + sum(level.tokens for level in own))
        return slice(0)

    def check_query(self, query: int) -> int:
        """Return the index of a query after checking it.

        Raises:
            UserError: there is no such query.
        """
        if not 0 <= query < self.queries:
            raise UserError(f"query {query}: this model has queries 0 to {self.queries - 1}")
        return query

    def detections(self, threshold: float = 0.7, layer: int = -1) -> Detections:
        """Return the detections of a decoder layer, boxes in pixels of the original, best first.

        Raises:
            UserError: no such layer, or a threshold outside 0..1.
        """
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold {threshold}: expected a score between 0 and 1")
        g = self.geometry
        return self.predictions(layer).detections(
            self.classes, threshold, height=g.height, width=g.width, source=self.source
        )

    def predictions(self, layer: int = -1) -> Scored:
        """Return what a decoder layer predicts, whatever its score, boxes in pixels of the original, best first.

        Raises:
            UserError: no such layer.
        """
        self.check_index("layer", layer, len(self.logits))
        whole = self.geometry.crop_xyxy == (0, 0, self.geometry.width, self.geometry.height)
        masks = self.masks if whole else None  # those of a part of the image lie on that part only
        outputs = Outputs(self.logits[:, None], self.boxes_cxcywh[:, None], masks=masks)
        (scored,) = postprocess(outputs, self.card, [(1, 1)], layer)
        x0, y0, x1, y1 = self.geometry.crop_xyxy
        boxes = scored.boxes_xyxy * torch.tensor([x1 - x0, y1 - y0] * 2) + torch.tensor([x0, y0] * 2)
        return replace(scored, boxes_xyxy=boxes)

    def scores(self, layer: int = -1) -> Tensor:
        """Return every query's score for every class: [Q, classes]."""
        self.check_index("layer", layer, len(self.logits))
        return class_scores(self.logits[layer], self.card.scoring)

    def boxes_xyxy(self, layer: int = -1) -> Tensor:
        """Return every query's box in pixels of the original: [Q, 4]."""
        self.check_index("layer", layer, len(self.logits))
        return self.geometry.boxes_xyxy(self.boxes_cxcywh[layer])

    @property
    def targets_xyxy(self) -> Tensor | None:
        """Ground-truth boxes in pixels of the original, where known: [M, 4]."""
        if self.targets is None:
            return None
        boxes = cxcywh_to_xyxy(self.targets.boxes_cxcywh)
        return scale_boxes(boxes, self.geometry.width, self.geometry.height)

    def token_at(self, point: tuple[float, float], level: int = 0, site: str = "") -> int:
        """Return the index, over all levels of a site, of the token whose cell holds a point x, y of the original.

        Raises:
            UserError: the point is outside the part of the image that the model ran on.
        """
        levels = self.levels_at(site)
        self.check_index("level", level, len(levels))
        level %= len(levels)
        before = sum(size.tokens for size in levels[:level])
        return before + self.geometry.token_at(*point, levels[level])

    def query_name(self, query: int) -> str:
        """Return such as `query 37 (dog 0.98)`: the query and its best class in the last layer."""
        score, index = self.scores()[self.check_query(query)].max(-1)
        return f"query {query} ({self.classes.names[int(index)]} {float(score):.2f})"

    def check_index(self, name: str, index: int | None, count: int) -> None:
        """Check that an index is None or within -count to count - 1.

        Raises:
            UserError: it is not; the valid range of `name` is given.
        """
        if index is not None and not -count <= index < count:
            raise UserError(f"{name} {index}: there are {count}, 0 to {count - 1}")


def _one_of(record: Record, index: int, batch: int) -> Record:
    """Return the record of one image of a batch; tensors that broadcast over the batch are not indexed."""
    parts = {}
    for f in fields(record):
        value = getattr(record, f.name)
        if isinstance(value, Tensor):
            if batch > 1 and value.dim() >= 4 and value.shape[0] == batch:
                value = value[index : index + 1]
            parts[f.name] = value.cpu()
    return cast(Record, replace(cast(Any, record), **parts))
