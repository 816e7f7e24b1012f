"""How much attention lies on the parts of the probe images' objects, moment by moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detrscope.core.snapshot import ProbeSnapshot
from detrscope.core.trace_data import TraceData
from detrscope.lens.metrics import mass_in
from detrscope.lens.token_coverage import area_of_masks, cover_of_masks
from detrscope.recording.probe_images import AnnotatedImage
from detrscope.training.run_folder import Row


@dataclass(frozen=True)
class _Regions:
    """The parts of one object that can be seen in the image."""

    names: tuple[str, ...]
    cover: Tensor  # [r, S] of each token's cell
    areas: Tensor  # [r] shares of the image


@dataclass(frozen=True)
class PartAttention:
    """One part of one object at one moment."""

    name: str
    mass: float  # of attention of the query that answers for the object, mean over heads of the last layer
    area: float  # of the image; attention spread evenly would have this mass


class PartMeter:
    """Measures looks; where each part lies is worked out once."""

    def __init__(self, probes: Sequence[AnnotatedImage]) -> None:
        self._probes = {probe.name: probe for probe in probes}
        self._regions: dict[tuple[str, int], _Regions] = {}

    def measure(
        self, name: str, trace: TraceData, look: ProbeSnapshot, matched: Mapping[int, int]
    ) -> list[PartAttention]:
        """Every part of every object.

        Args:
            name: of the probe image.
            trace: the look before it was cut down, for its geometry.
            look: what was kept of it.
            matched: the query that answers for each object.
        """
        rows = look.rows()  # [n, S]
        kept = look.query_ids.tolist()
        found: list[PartAttention] = []
        for index, query in matched.items():
            regions = self._regions_of(name, index, trace)
            masses = mass_in(rows[kept.index(query)], regions.cover)
            found += map(PartAttention, regions.names, masses.tolist(), regions.areas.tolist())
        return found

    def _regions_of(self, name: str, index: int, trace: TraceData) -> _Regions:
        key = (name, index)
        if key not in self._regions:
            names, masks = self._probes[name].regions(index)
            share = area_of_masks(masks)
            seen = share > 0
            cover = cover_of_masks(masks[seen], trace.geometry, trace.levels)
            kept = tuple(name for name, is_seen in zip(names, seen.tolist(), strict=True) if is_seen)
            self._regions[key] = _Regions(kept, cover, share[seen])
        return self._regions[key]


def attention_row(step: int, epoch: float, found: Sequence[PartAttention]) -> Row:
    """Means over the objects that have a part: a row of attention.jsonl; docs/timelapse.md lists its columns."""
    row: Row = {"step": step, "epoch": round(epoch, 4)}
    for name in dict.fromkeys(one.name for one in found):
        own = [one for one in found if one.name == name]
        row[f"mass/{name}"] = float(torch.tensor([one.mass for one in own]).mean())
        row[f"area/{name}"] = float(torch.tensor([one.area for one in own]).mean())
        row[f"objects/{name}"] = len(own)
    return row
