"""Everything about one look at one image: what was seen, what was predicted, where attention went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from detrscope.core.attention_map import (
    AttentionMap,
    Merge,
    QueryAttention,
    Selection,
    merged_heads,
    parts_of,
)
from detrscope.core.card import ModelCard
from detrscope.core.classes import ClassTable
from detrscope.core.edits import Edit
from detrscope.core.errors import UserError, nearest
from detrscope.core.geometry import Geometry
from detrscope.core.postprocess import class_scores, postprocess
from detrscope.core.probe import Probe
from detrscope.core.records import DeformableRecord, Record
from detrscope.core.types import Detections, Level, Outputs, Target

Kind = Literal["encoder.self", "decoder.self", "decoder.cross"]


@dataclass(frozen=True)
class Gradient:
    """How one query's logit of one class changes with what the attention sites give out."""

    query: int
    class_index: int
    sites: Mapping[str, Tensor]  # [1, Q or S, h * dv] by site: of what it gives to the output projection


@dataclass(frozen=True, eq=False)
class Trace:
    """One look at one image. Made by `Detector.trace`; saves to one file and loads without the model.

    Attributes:
        card: family, variant, config, classes and preprocessing of the model.
        geometry: the way back to the pixels of the original.
        image: uint8 [3, h, w] what the model saw, without padding.
        logits: [N, Q, K] float32 of every decoder layer, the last at -1.
        boxes_cxcywh: [N, Q, 4] float32, 0..1 of the image (of its crop, where there is one).
        levels: sizes of the maps that the tokens come from.
        model_sites: all attention sites of the model.
        records: what the doors kept, by site, each of a batch of one.
        features: maps of convolutions [C, H, W] by site, where asked for.
        edits: what was changed while looking.
        gradients: for relevance, where asked for.
        targets: the truth, where known; boxes 0..1 of the whole original.
        original: uint8 [3, height, width], where it is kept.
        source: the name of the file or address.
        shapes: of what flowed along the path, by name, such as `feature map 0`.
        notes: whatever the maker wants to say about this look, such as the epoch.
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
    original: Tensor | None = None
    source: str = ""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    notes: Mapping[str, str | int | float] = field(default_factory=dict)

    @classmethod
    def of_look(
        cls,
        probe: Probe,
        outputs: Outputs,
        index: int = 0,
        *,
        card: ModelCard,
        geometry: Geometry,
        image: Tensor,
        model_sites: Sequence[str],
    ) -> Trace:
        """What a probe kept of one image of a batch, on the CPU; nothing is copied that is there already.

        Args:
            probe: after its one forward.
            outputs: of that forward.
            index: which image of the batch.
            card: of the model.
            geometry: of this image in this batch.
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
            features={site: kept[index].cpu() for site, kept in probe.features.items()},
            edits=probe.edits,
            shapes=dict(probe.shapes),
        )

    def __repr__(self) -> str:
        size = f"{self.geometry.width}x{self.geometry.height}"
        return f"Trace({self.card.variant}, {self.source or 'image'} {size}, {len(self.records)} sites)"

    @property
    def sites(self) -> tuple[str, ...]:
        """The attention sites with a record, in the order of the path."""
        return tuple(self.records)

    @property
    def classes(self) -> ClassTable:
        """Class names and original category ids."""
        return self.card.classes

    @property
    def queries(self) -> int:
        """How many queries the decoder has."""
        return self.logits.shape[1]

    def record(self, site: str) -> Record:
        """What the door kept at a site, of a batch of one.

        Raises:
            UserError: the model has no such site, or it was not recorded.
        """
        if site in self.records:
            return self.records[site]
        if site in self.model_sites:
            have = ", ".join(self.records) or "none"
            raise UserError(f"site '{site}' was not recorded; this trace has {have}; ask for it with sites=")
        raise UserError(f"site '{site}' is not in this model; {nearest(site, self.model_sites)}")

    def site(self, kind: Kind, layer: int = -1) -> str:
        """The name of a layer's site, counted from the end where negative.

        Raises:
            UserError: the model has no such layer.
        """
        stack, _, what = kind.partition(".")
        found = [s for s in self.model_sites if s.startswith(f"{stack}.") and s.endswith(f".{what}")]
        if not -len(found) <= layer < len(found):
            raise UserError(f"layer {layer}: this model has {len(found)} layers with {kind} attention")
        return found[layer]

    def detections(self, threshold: float = 0.7, layer: int = -1) -> Detections:
        """What a decoder layer finds, boxes in pixels of the original, best first.

        Raises:
            UserError: no such layer.
        """
        self._check("layer", layer, len(self.logits))
        outputs = Outputs(self.logits[:, None], self.boxes_cxcywh[:, None])
        (scored,) = postprocess(outputs, self.card.scoring, [(1, 1)], layer)
        g = self.geometry
        x0, y0, x1, y1 = g.crop_xyxy
        boxes = scored.boxes_xyxy * torch.tensor([x1 - x0, y1 - y0] * 2) + torch.tensor([x0, y0] * 2)
        return replace(scored, boxes_xyxy=boxes).detections(
            self.classes, threshold, height=g.height, width=g.width, source=self.source
        )

    def scores(self, layer: int = -1) -> Tensor:
        """Every query's score for every class: [Q, classes]."""
        self._check("layer", layer, len(self.logits))
        return class_scores(self.logits[layer], self.card.scoring)

    def boxes_xyxy(self, layer: int = -1) -> Tensor:
        """Every query's box in pixels of the original: [Q, 4]."""
        self._check("layer", layer, len(self.logits))
        return self.geometry.boxes_xyxy(self.boxes_cxcywh[layer])

    def cross_attention(
        self,
        query: int | Sequence[int] | None = None,
        layer: int = -1,
        head: int | None = None,
        level: int | None = None,
        merge: Merge = "mean",
    ) -> AttentionMap:
        """Where a query looks in the image.

        Args:
            query: its number; of several the mean; None is the mean over all of them.
            layer: decoder layer, the last by default.
            head: one head; None merges them.
            level: one map of the image; None is all of them.
            merge: how heads are merged.

        Raises:
            UserError: no such query, layer, head or level, or the site was not recorded.
        """
        site = self.site("decoder.cross", layer)
        chosen = self._chosen(query)
        name = ", ".join(self.query_name(q) for q in chosen) if len(chosen) <= 3 else f"{len(chosen)} queries"
        if query is None:
            name = f"mean of all {self.queries} queries"
        elif len(chosen) > 1:
            name = f"mean of {name}"
        return self.map_of_rows(Selection(site, chosen, head, merge, level), name)

    def self_attention(
        self,
        point: tuple[float, float] | None = None,
        query: int | None = None,
        layer: int = -1,
        head: int | None = None,
        level: int | None = None,
        merge: Merge = "mean",
        from_level: int = 0,
    ) -> AttentionMap | QueryAttention:
        """Where a token of the image looks in the image (encoder), or a query among the queries (decoder).

        Args:
            point: x, y of the original: the token there is asked.
            query: its number, in place of a point.
            layer: of the encoder (point) or the decoder (query), the last by default.
            head: one head; None merges them.
            level: one map of the image; None is all of them.
            merge: how heads are merged.
            from_level: of which map the token at `point` is; 0 is the finest.

        Raises:
            UserError: not one of point and query, a point outside, no such layer, head or level, or the site was not
                recorded.
        """
        if (point is None) == (query is None):
            raise UserError("self_attention: give point=(x, y) of the original image, or query=")
        if point is not None:
            self._check("level", from_level, len(self.levels))
            token = self.token_at(point, from_level)
            selection = Selection(self.site("encoder.self", layer), (token,), head, merge, level, point)
            where = f"token at ({point[0]:g}, {point[1]:g})"
            return self.map_of_rows(
                selection, where + (f" of level {from_level}" if len(self.levels) > 1 else "")
            )
        assert query is not None
        site = self.site("decoder.self", layer)
        self._chosen(query)
        rows = self._rows(site, (query,))
        self._check("head", head, rows.shape[0])
        values = merged_heads(rows, head, merge)[0]
        return QueryAttention(
            values=values,
            boxes_cxcywh=self.boxes_cxcywh[layer if len(self.boxes_cxcywh) > 1 else -1],
            geometry=self.geometry,
            image=self.image,
            selection=Selection(site, (query,), head, merge),
            caption=self._caption(
                site, self.query_name(query), head, merge, rows.shape[0], f"{len(values)} queries"
            )
            + f", weights sum to {float(values.sum()):.3f}",
        )

    def token_at(self, point: tuple[float, float], level: int = 0) -> int:
        """The token whose cell holds a point x, y of the original, counted over all levels.

        Raises:
            UserError: the point is outside of what was looked at.
        """
        before = sum(size.height * size.width for size in self.levels[:level])
        return before + self.geometry.token_at(*point, self.levels[level])

    def query_name(self, query: int) -> str:
        """Such as `query 37 (dog 0.98)`: its best class in the last layer."""
        score, index = self.scores()[query].max(-1)
        return f"query {query} ({self.classes.names[int(index)]} {float(score):.2f})"

    def map_of_rows(self, selection: Selection, who: str) -> AttentionMap:
        """The map of rows of an attention site whose keys are tokens of the image.

        Args:
            selection: site, rows and how they are merged.
            who: what to call the rows in the caption.

        Raises:
            UserError: no such head or level, or the site was not recorded.
        """
        rows = self._rows(selection.site, selection.queries)  # [h, n, S]
        self._check("head", selection.head, rows.shape[0])
        row = merged_heads(rows, selection.head, selection.merge).mean(0)  # [S]
        return self.map_of_row(row, selection, who, heads=rows.shape[0])

    def map_of_row(self, row: Tensor, selection: Selection, who: str, heads: int = 1) -> AttentionMap:
        """Weights over all tokens [S] as a map, with its caption.

        Raises:
            UserError: no such level.
        """
        self._check("level", selection.level, len(self.levels))
        parts = parts_of(row, self.levels)
        ids = range(len(parts)) if selection.level is None else [selection.level % len(parts)]
        sizes = ", ".join(f"{self.levels[i].height}x{self.levels[i].width}" for i in ids)
        one = AttentionMap(
            parts=tuple(parts[i] for i in ids),
            level_ids=tuple(ids),
            geometry=self.geometry,
            image=self.image,
            selection=selection,
        )
        about = self._caption(selection.site, who, selection.head, selection.merge, heads, f"{sizes} tokens")
        if selection.level is not None and len(self.levels) > 1:
            about += f" of level {ids[0]}"
        return replace(one, caption=f"{about}, weights sum to {one.mass:.3f}")

    def describe(self) -> str:
        """The shapes of everything, step by step, as text."""
        from detrscope.core.trace_table import describe

        return describe(self)

    def save(self, path: str | Path, *, half: bool = False) -> Path:
        """Write everything to one file, whole or not at all.

        Args:
            path: such as `photo.trace`.
            half: records, features and gradients in float16: half the size; a weight is then right to about 1%.

        Raises:
            UserError: the file cannot be written.
        """
        from detrscope.core.trace_file import save_trace

        return save_trace(self, path, half=half)

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a file that `save` wrote; the model is not needed.

        Raises:
            UserError: missing, truncated, not a trace, or written in a way that this version does not know.
        """
        from detrscope.core.trace_file import load_trace

        return load_trace(path)

    def _rows(self, site: str, queries: Sequence[int]) -> Tensor:
        """[h, n, S] float32."""
        return self.record(site).rows(torch.tensor(queries))[0].float()

    def _chosen(self, query: int | Sequence[int] | None) -> tuple[int, ...]:
        if query is None:
            return tuple(range(self.queries))
        chosen = (query,) if isinstance(query, int) else tuple(int(q) for q in query)
        if not chosen:
            raise UserError("query: an empty list; give at least one query, or None for all of them")
        for one in chosen:
            if not 0 <= one < self.queries:
                raise UserError(f"query {one}: this model has queries 0 to {self.queries - 1}")
        return chosen

    def _check(self, name: str, index: int | None, count: int) -> None:
        if index is not None and not -count <= index < count:
            raise UserError(f"{name} {index}: there are {count}, 0 to {count - 1}")

    def _caption(self, site: str, who: str, head: int | None, merge: Merge, heads: int, over: str) -> str:
        which = f"head {head} of {heads}" if head is not None else f"{merge} of {heads} heads"
        edited = f", {len(self.edits)} edits" if self.edits else ""
        how = "points splatted on" if isinstance(self.records.get(site), DeformableRecord) else "softmax over"
        return f"{self.card.variant}{edited}, {site}, {who}, {which}, {how} {over}"


def _one_of(record: Record, index: int, batch: int) -> Record:
    """The record of one image of a batch; what broadcasts over the batch is kept as it is."""
    parts = {}
    for f in fields(record):
        value = getattr(record, f.name)
        if isinstance(value, Tensor):
            if batch > 1 and value.dim() >= 4 and value.shape[0] == batch:
                value = value[index : index + 1]
            parts[f.name] = value.cpu()
    return replace(cast(Any, record), **parts)  # the same class with the same kinds of fields
