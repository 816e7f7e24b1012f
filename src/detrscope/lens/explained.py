"""A detection with the maps that methods explain it by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from detrscope.core.attention_map import AttentionMap, Selection, split_attention_by_level
from detrscope.core.geometry import Geometry
from detrscope.core.trace_data import TraceData


@dataclass(frozen=True)
class ExplainedDetection:
    """A detection with the map of each method.

    Attributes:
        trace: of its image.
        query: its query.
        region_xyxy: [4] box of the region that the maps are expected to show, pixels of the original.
        maps: by method, each less its smallest value.
    """

    trace: TraceData
    query: int
    region_xyxy: Tensor
    maps: Mapping[str, AttentionMap]


def map_of_weights(trace: TraceData, weights: Tensor, geometry: Geometry) -> AttentionMap:
    """Return weights of tokens as a map.

    Args:
        trace: gives the levels of the tokens.
        weights: [S].
        geometry: that of the trace, or its `of_model_input()`.
    """
    parts = split_attention_by_level(weights.float(), trace.levels)
    return AttentionMap(parts, tuple(range(len(parts))), geometry, trace.image, Selection("weights"))
