"""From the predictions in each tile of an image to those of the image, without double boxes.

Within one tile nothing is suppressed: set prediction gives each object one box. Boxes of two tiles are one object where
both tiles see the same of it: where the boxes, cut to what the tiles have in common, agree. An object that an edge cuts
has a partial box; each side of the box is taken from a tile that sees it.

Running a detector on overlapping slices and merging is SAHI's idea (arXiv:2202.06934); its measure, the intersection
over the smaller area, would also merge a small object with the large one behind it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detrscope.core.postprocess import Scored
from detrscope.core.tiling import Rect

# Chosen on two mosaics of benchmarks/tiling.py; the figures in docs/tiling.md are of others.
AGREEMENT = 0.5  # least IoU of two boxes of one object, in what their tiles have in common
CUT = 0.03  # of a tile's side: a box that ends nearer to an inner edge may be cut by it
MIN_CUT = 1.0  # pixels
COVERED = 0.7  # share of a partial box inside another that makes it a part of that one
TRUSTED = 0.5  # of the best score of an object: boxes with less do not shape it
FAR = 0.2  # of the side of a part: objects smaller than this are seen better in smaller parts
MIN_SCORE = 0.05  # predictions with less are not compared: they are most, and noise


@dataclass(frozen=True)
class _Candidates:
    """Predictions in all parts of an image."""

    boxes: Tensor  # [n, 4] pixels of the image, cut to their part
    scores: Tensor  # [n]
    class_indices: Tensor  # [n]
    query_ids: Tensor  # [n]
    part: Tensor  # [n] index of the tile, or of the image as a whole
    regions: Tensor  # [parts, 4] pixels
    cut: Tensor  # [n, 4] bool: left, top, right, bottom ends at an edge inside the image


def merge_tiles(parts: Sequence[tuple[Rect, Scored]]) -> Scored:
    """Return the predictions of an image, best first, each with its tile; boxes are cut to what was seen.

    Args:
        parts: for each tile, and for the image as a whole where the model ran on it, its place in pixels of the image
            and the predictions in it, with boxes in pixels of the image.
    """
    if len(parts) == 1:
        ((region, scored),) = parts
        return _with_tiles(scored, torch.tensor([region]).expand(len(scored.scores), 4))
    found = _gather(parts)
    boxes, scores, origin, unseen = _shape(found, _group(found))
    kept, scores = _absorb_parts(boxes, scores, found.class_indices[origin], unseen)
    order = kept[scores[kept].argsort(descending=True, stable=True)]
    origin = origin[order]
    return Scored(
        boxes[order],
        scores[order],
        found.class_indices[origin],
        found.query_ids[origin],
        found.regions[found.part[origin]],
    )


def _with_tiles(scored: Scored, tiles_xyxy: Tensor) -> Scored:
    return Scored(scored.boxes_xyxy, scored.scores, scored.class_indices, scored.query_ids, tiles_xyxy)


def _gather(parts: Sequence[tuple[Rect, Scored]]) -> _Candidates:
    """Return the predictions of all parts on the CPU, boxes cut to their part."""
    regions = torch.tensor([region for region, _ in parts])  # [parts, 4]
    counts = torch.tensor([len(scored.scores) for _, scored in parts])
    part = torch.arange(len(parts)).repeat_interleave(counts)  # [n]
    region = regions[part].float()  # [n, 4]
    boxes = torch.cat([scored.boxes_xyxy for _, scored in parts]).float().cpu()
    low, high = region[:, :2].repeat(1, 2), region[:, 2:].repeat(1, 2)
    boxes = boxes.maximum(low).minimum(high)
    margin = ((high - low) * CUT).clamp(min=MIN_CUT)
    image = torch.cat([regions[:, :2].amin(0), regions[:, 2:].amax(0)]).float()
    return _Candidates(
        boxes=boxes,
        scores=torch.cat([scored.scores for _, scored in parts]).float().cpu(),
        class_indices=torch.cat([scored.class_indices for _, scored in parts]).cpu(),
        query_ids=torch.cat([scored.query_ids for _, scored in parts]).cpu(),
        part=part,
        regions=regions,
        cut=((boxes - region).abs() <= margin) & (region != image),
    )


def _group(found: _Candidates) -> list[list[int]]:
    """Return the predictions of each object, at most one of each part: best pairs first, as long as there are any."""
    first, second = _agreeing_pairs(found)
    group_of = {i: [i] for i in range(len(found.scores))}
    part = found.part.tolist()
    parts_of = {i: {part[i]} for i in group_of}
    leader = list(group_of)
    for i, j in zip(first.tolist(), second.tolist(), strict=True):
        a, b = leader[i], leader[j]
        if a == b or parts_of[a] & parts_of[b]:
            continue
        if len(group_of[a]) < len(group_of[b]):
            a, b = b, a
        for member in group_of[b]:
            leader[member] = a
        group_of[a] += group_of.pop(b)
        parts_of[a] |= parts_of.pop(b)
    return list(group_of.values())


def _agreeing_pairs(found: _Candidates) -> tuple[Tensor, Tensor]:
    """Return the pairs of predictions in different parts that agree, surest first.

    A pair is as sure as the lesser score times the agreement: by agreement alone a chance prediction with hardly any
    score would take the place of the detection beside it.
    """
    rows = defaultdict(list)
    compared = (found.scores >= MIN_SCORE).nonzero()[:, 0].tolist()
    for index, part in zip(compared, found.part[compared].tolist(), strict=True):
        rows[part].append(index)
    members = {part: torch.tensor(indices) for part, indices in rows.items()}
    regions = found.regions.float()
    firsts, seconds, strengths = [], [], []
    for a, mine in members.items():
        common = torch.cat(
            [regions[a, :2].maximum(regions[:, :2]), regions[a, 2:].minimum(regions[:, 2:])], 1
        )
        for b in (common[:, 2:] > common[:, :2]).all(1).nonzero()[:, 0].tolist():
            if b <= a or b not in members:
                continue
            others = members[b]
            iou = _iou_within(found.boxes[mine], found.boxes[others], common[b])
            same = found.class_indices[mine][:, None] == found.class_indices[others]
            i, j = ((iou >= AGREEMENT) & same).nonzero(as_tuple=True)
            firsts.append(mine[i])
            seconds.append(others[j])
            strengths.append(iou[i, j] * found.scores[mine[i]].minimum(found.scores[others[j]]))
    if not firsts:
        return torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)
    order = torch.cat(strengths).argsort(descending=True, stable=True)
    return torch.cat(firsts)[order], torch.cat(seconds)[order]


def _iou_within(boxes: Tensor, others: Tensor, region: Tensor) -> Tensor:
    """Return the IoU of boxes [n, 4] and others [m, 4] cut to a region [4]: [n, m]; 0 outside of it."""
    low, high = region[:2].repeat(2), region[2:].repeat(2)
    boxes, others = boxes.maximum(low).minimum(high), others.maximum(low).minimum(high)
    shared = _intersection(boxes, others)
    return shared / (_area(boxes)[:, None] + _area(others) - shared).clamp(min=1e-9)


def _intersection(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the common area of boxes [n, 4] and others [m, 4]: [n, m]."""
    low = boxes[:, None, :2].maximum(others[:, :2])
    high = boxes[:, None, 2:].minimum(others[:, 2:])
    return (high - low).clamp(min=0).prod(-1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(-1)


def _shape(found: _Candidates, groups: list[list[int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return box [m, 4], score [m], most telling prediction [m] and unseen sides [m, 4] of each object.

    The score is the best in any part. Of the predictions that do not score far less, the most telling sees the object
    whole, and closely: it is not far, not cut, in a small part, and scores best, in this order. Each side of the box
    comes from the most telling prediction that sees it.
    """
    regions = found.regions.float()
    area, side = _area(regions)[found.part], (regions[:, 2:] - regions[:, :2]).amax(1)[found.part]  # [n]
    far = (area > _area(regions).amin()) & ((found.boxes[:, 2:] - found.boxes[:, :2]).amax(1) < FAR * side)
    keys = torch.stack([far.float(), found.cut.any(1).float(), area, -found.scores], 1).tolist()
    scores, all_boxes, cut = found.scores.tolist(), found.boxes.tolist(), found.cut.tolist()
    boxes, best, origin, unseen = [], [], [], []
    for group in groups:
        top = max(scores[i] for i in group)
        trusted = sorted((i for i in group if scores[i] >= TRUSTED * top), key=keys.__getitem__)
        box, hidden = all_boxes[trusted[0]], cut[trusted[0]]
        if any(hidden) and len(trusted) > 1:
            box, hidden = _joined([all_boxes[i] for i in trusted], [cut[i] for i in trusted])
        boxes.append(box)
        best.append(top)
        origin.append(trusted[0])
        unseen.append(hidden)
    return (
        torch.tensor(boxes).view(-1, 4),
        torch.tensor(best),
        torch.tensor(origin, dtype=torch.long),
        torch.tensor(unseen, dtype=torch.bool).view(-1, 4),
    )


def _joined(boxes: list[list[float]], cut: list[list[bool]]) -> tuple[list[float], list[bool]]:
    """Return a box, each side from the first of the boxes that sees it, else the outermost; and its unseen sides."""
    joined = []
    for side in range(4):
        seeing = [box[side] for box, hidden in zip(boxes, cut, strict=True) if not hidden[side]][:1]
        values = seeing or [box[side] for box in boxes]
        joined.append(min(values) if side < 2 else max(values))
    if joined[0] >= joined[2] or joined[1] >= joined[3]:  # a chain of boxes, the ends of which do not meet
        return boxes[0], cut[0]
    return joined, [all(hidden[side] for hidden in cut) for side in range(4)]


def _absorb_parts(boxes: Tensor, scores: Tensor, classes: Tensor, unseen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the objects [k] that are not a part of another, and the scores [m] of all.

    A part is a cut box inside one that goes on beyond the edge. The larger one gets its score if that is better.
    """
    kept, scores = torch.ones(len(boxes), dtype=torch.bool), scores.clone()
    cut = (unseen.any(1) & (scores >= MIN_SCORE)).nonzero()[:, 0]
    others = (scores >= MIN_SCORE * TRUSTED).nonzero()[:, 0]
    outward = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    wholes: dict[int, int] = {}
    for start in range(0, len(cut), 1024):  # at once it would take gigabytes
        some = cut[start : start + 1024]
        inside = _intersection(boxes[some], boxes[others]) >= COVERED * _area(boxes[some])[:, None]
        further = (boxes[others] - boxes[some][:, None]) * outward > MIN_CUT  # [some, others, 4]
        beyond = (further & unseen[some][:, None]).any(-1)
        surer = scores[others] >= TRUSTED * scores[some][:, None]
        same = classes[others] == classes[some][:, None]
        covers = inside & beyond & surer & same & (_area(boxes[others]) > _area(boxes[some])[:, None])
        best = scores[others].masked_fill(~covers, -1.0).max(1)
        parts = best.values >= 0
        kept[some[parts]] = False
        wholes.update(zip(some[parts].tolist(), others[best.indices[parts]].tolist(), strict=True))
    areas = _area(boxes).tolist()
    for part in sorted(wholes, key=areas.__getitem__):  # a part of a part comes first
        scores[wholes[part]] = scores[wholes[part]].maximum(scores[part])
    return kept.nonzero()[:, 0], scores
