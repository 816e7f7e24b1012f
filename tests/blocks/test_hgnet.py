"""HGNetV2: norms and affine maps folded into the convolutions compute the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detrscope.blocks.hgnet import AffineHGConv, HGNetBackbone
from detrscope.ops.convolution import Floor


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_folded_network_computes_the_same(sign: float) -> None:
    torch.manual_seed(0)
    backbone = HGNetBackbone("hgnetv2_b0", (2, 3, 4), nn.BatchNorm2d).eval()
    affine = [conv for _, conv in backbone.convolutions() if isinstance(conv, AffineHGConv)]
    with torch.no_grad():
        for conv in affine:
            conv.scale.copy_(sign * (1 + 0.3 * torch.rand(1)))
            conv.shift.copy_(0.3 * torch.randn(1))
        images = torch.rand(2, 3, 64, 96)
        expected = backbone(images)
        for _, conv in backbone.convolutions():
            conv.fold_norms()
        found = backbone(images)
    assert len(affine) > 20
    assert [isinstance(conv.activation, Floor) for conv in affine] == [sign > 0] * len(affine)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * float(other.abs().max()), rtol=0)
