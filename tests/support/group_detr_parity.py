"""What LW-DETR and RF-DETR have in common, as parts to compare with transformers' models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from detrscope.blocks.path import DetectionTransformer
from detrscope.core.types import Batch, Outputs


def run_theirs(theirs: Any, ours: Outputs, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return their parts for the tokens that we selected; scores that nearly tie may be ranked otherwise."""
    assert ours.proposals is not None and ours.proposals.selected is not None
    selected = ours.proposals.selected

    def topk(values: Tensor, count: int, dim: int) -> tuple[Tensor, Tensor]:
        lowest = values.topk(count, dim=dim).values[:, -1:]
        assert (values.gather(1, selected) > lowest - 1e-3).all(), "another selection"
        return values.gather(1, selected), selected

    mask = None if batch.padding is None else (~batch.padding).long()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "topk", topk)
        outputs = theirs(batch.images, pixel_mask=mask)
    references, states = outputs.init_reference_points, outputs.intermediate_hidden_states
    delta = theirs.bbox_embed(states)
    centre, size = references.split(2, dim=-1)
    boxes = torch.cat([delta[..., :2] * size + centre, delta[..., 2:].exp() * size], dim=-1)
    assert torch.equal(boxes[-1], outputs.pred_boxes)
    return [
        outputs.enc_outputs_class,
        outputs.enc_outputs_coord_logits,
        references,
        theirs.class_embed(states),
        boxes,
    ]


def parts_of(outputs: Outputs, model: DetectionTransformer, batch: Batch) -> list[Tensor]:
    """Return logits and boxes of the selected proposals, references, and logits and boxes of every decoder layer."""
    proposals = outputs.proposals
    assert proposals is not None and proposals.selected is not None
    index = proposals.selected[..., None]
    chosen = [
        x.gather(1, index.expand(-1, -1, x.shape[2])) for x in (proposals.logits, proposals.boxes_cxcywh)
    ]
    centre, size = chosen[1].split(2, dim=-1)
    offset = model.queries.get_parameter("offset")[: index.shape[1]]
    references = torch.cat([centre + offset[:, :2] * size, offset[:, 2:].exp() * size], dim=-1)
    return [*chosen, references, outputs.logits, outputs.boxes_cxcywh]


def assert_parts_equal(
    ours: Sequence[Tensor],
    single: Sequence[Tensor],
    truth: Sequence[Tensor],
    double: Sequence[Tensor],
    selected: Sequence[Tensor],
) -> None:
    """Compare to 1e-6 of the scale in float64, and in float32 to 1e-4 or to the rounding of theirs.

    Args:
        ours: our parts in float32.
        single: theirs in float32.
        truth: theirs in float64, for our float32 selection.
        double: ours in float64.
        selected: theirs in float64, for our float64 selection.
    """
    for mine, other in zip(double, selected, strict=True):
        assert mine.shape == other.shape
        torch.testing.assert_close(mine, other, atol=1e-6 * max(1.0, float(other.abs().max())), rtol=0)
    for mine, other, true in zip(ours, single, truth, strict=True):
        rounding = float((other - true).abs().max())
        scale = max(1.0, float(true.abs().max()))
        far = (mine - true).abs() > max(1e-4 * scale, 3 * rounding)
        assert far.float().mean() < 1e-3, "where a sampling point crosses a token's centre, rounding decides"
