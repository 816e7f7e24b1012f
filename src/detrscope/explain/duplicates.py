"""Duplicates that self-attention did not suppress, proved by an edit of it that removes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torchvision.ops import box_iou

from detrscope.console import log
from detrscope.core.verdicts import Verdict
from detrscope.evaluation.object_matching import MATCH_IOU
from detrscope.inference.detector import Detector
from detrscope.inference.graph_engine import GraphEngine

STRENGTHS = (
    2,
    4,
    8,
)  # added to the scores by which a duplicate attends to what it repeats, until it gives way


def prove_duplicates(
    detector: Detector, verdicts: Sequence[Verdict], threshold: float, most: int
) -> list[Verdict]:
    """Return the verdicts, duplicates with the edit that removes them where one is found.

    Args:
        detector: the model.
        verdicts: all errors.
        threshold: minimum score of a detection.
        most: duplicates for which an edit is looked for.
    """
    duplicates = [v for v in verdicts if v.stage == "duplicate" and v.object_xyxy and v.repeats != v.query]
    if isinstance(detector.engine, GraphEngine) and duplicates and most:
        log.info(
            "duplicates are not proved: an exported graph takes no edits of single pairs; use the checkpoint"
        )
        return list(verdicts)
    edits = {id(verdict): _removing_edit(detector, verdict, threshold) for verdict in duplicates[:most]}
    return [replace(verdict, edit=edits.get(id(verdict), "")) for verdict in verdicts]


def _removing_edit(detector: Detector, verdict: Verdict, threshold: float) -> str:
    """Return the edit by which a duplicate sees what it repeats better and gives way; "" where none is found."""
    if not any(site.startswith("decoder.") and site.endswith(".self") for site in detector.engine.sites):
        return ""
    index = detector.classes.names.index(verdict.name)
    query, kept = verdict.query, verdict.repeats
    place = torch.tensor([verdict.object_xyxy])
    for strength in STRENGTHS:
        edit = f"decoder.*.self: favour queries {query} keys {kept} +{strength}"
        trace = detector.trace(verdict.image, sites=(), edits=[edit])
        scores, overlaps = trace.scores()[:, index], box_iou(trace.boxes_xyxy(), place)[:, 0]
        on_it = (scores >= threshold) & (overlaps >= MATCH_IOU)
        if not bool(on_it[query]) and bool(on_it[kept]):
            return edit
    return ""
