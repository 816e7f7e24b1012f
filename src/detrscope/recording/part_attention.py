"""Attention on the parts of annotated objects, one row of attention.jsonl for each snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detrscope.core.records import record_to_float32
from detrscope.core.trace_data import TraceData
from detrscope.lens.metrics import mass_in
from detrscope.lens.token_coverage import area_covered_by_masks, cover_of_masks
from detrscope.recording.probe_images import AnnotatedImage
from detrscope.training.metrics_table import Row


@dataclass(frozen=True)
class PartAttention:
    """Attention on one part of one object at one step."""

    name: str
    mass: float  # attention of the query matched with the object, mean over heads of the last layer
    area: float  # share of the image; uniform attention would have this mass


class PartMeter:
    """Measures attention on parts of objects; the masks of an object are reduced to tokens once."""

    def __init__(self, images: Sequence[AnnotatedImage]) -> None:
        self._images = {image.name: image for image in images}
        self._visible: dict[tuple[str, int], tuple[list[str], Tensor, Tensor]] = {}

    def measure(self, name: str, trace: TraceData, matched: Mapping[int, int]) -> list[PartAttention]:
        """Return the attention on every visible part of every matched object.

        Args:
            name: name of the image.
            trace: trace with the record of the last cross-attention.
            matched: query matched with each object.
        """
        record = record_to_float32(trace.record(trace.site("decoder.cross")))
        queries = torch.tensor(list(matched.values()), dtype=torch.int64)
        rows = record.rows(queries)[0].float().mean(0)  # [m, S]
        parts: list[PartAttention] = []
        for index, row in zip(matched, rows, strict=True):
            names, cover, areas = self._visible_parts(name, index, trace)
            parts += map(PartAttention, names, mass_in(row, cover).tolist(), areas.tolist())
        return parts

    def _visible_parts(self, name: str, index: int, trace: TraceData) -> tuple[list[str], Tensor, Tensor]:
        """Return the names of an object's visible parts, their cover of the tokens [r, S] and their areas [r]."""
        if (name, index) not in self._visible:
            names, masks = self._images[name].parts_of(index)
            areas = area_covered_by_masks(masks)
            visible = areas.nonzero().flatten()
            cover = cover_of_masks(masks[visible], trace.geometry, trace.levels)
            self._visible[name, index] = [names[i] for i in visible.tolist()], cover, areas[visible]
        return self._visible[name, index]


def part_attention_row(step: int, epoch: float, parts: Sequence[PartAttention]) -> Row:
    """Return a row of attention.jsonl: means over the objects that have a part; columns as in docs/formats.md."""
    row: Row = {"step": step, "epoch": round(epoch, 4)}
    for name in dict.fromkeys(part.name for part in parts):
        own = [part for part in parts if part.name == name]
        row[f"mass/{name}"] = float(torch.tensor([part.mass for part in own]).mean())
        row[f"area/{name}"] = float(torch.tensor([part.area for part in own]).mean())
        row[f"objects/{name}"] = len(own)
    return row
