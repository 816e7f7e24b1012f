"""Folded convolutions against the convolution and its norm, on maps small and large."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrscope.ops.convolution import (
    SMALL_MAP,
    PackedConv2d,
    convolution_and_norm,
    fold_norm_into_convolution,
)
from detrscope.ops.kernels.native_precision import onednn_convolves

SMALL, LARGE = (7, 9), (24, 40)


def conv_and_norm() -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert tensor is not None
        nn.init.uniform_(tensor, 0.5, 1.5)
    return conv.eval(), norm.eval()


def picture(size: tuple[int, int]) -> Tensor:
    return torch.randn(2, 8, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("grad", [False, True])
def test_folded_norm_gives_the_same_numbers(size: tuple[int, int], grad: bool) -> None:
    conv, norm = conv_and_norm()
    x = picture(size)
    with torch.set_grad_enabled(grad):
        plain = norm(conv(x))
        residual = torch.randn_like(plain)
        folded = fold_norm_into_convolution(conv, norm)
        for c, n in ((conv, norm), (folded, nn.Identity())):
            torch.testing.assert_close(convolution_and_norm(x, c, n), plain, atol=1e-5, rtol=1e-4)
            both = convolution_and_norm(x, c, n, "relu", residual.clone())
            torch.testing.assert_close(both, (plain + residual).relu(), atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not onednn_convolves(torch.float32), reason="this build of torch has no oneDNN")
def test_only_weights_for_small_maps_are_cached() -> None:
    conv, norm = conv_and_norm()
    folded = fold_norm_into_convolution(conv, norm)
    assert isinstance(folded, PackedConv2d) and SMALL[0] * SMALL[1] <= SMALL_MAP < LARGE[0] * LARGE[1]
    with torch.no_grad():
        convolution_and_norm(picture(LARGE), folded, nn.Identity())
        assert folded.packed is None
        convolution_and_norm(picture(SMALL), folded, nn.Identity())
        assert folded.packed is not None
        folded.weight.mul_(2)
        assert folded.bias is not None
        doubled = convolution_and_norm(picture(SMALL), folded, nn.Identity())
        expected = 2 * norm(conv(picture(SMALL))) - folded.bias.view(1, -1, 1, 1)
        torch.testing.assert_close(doubled, expected, atol=1e-5, rtol=1e-4)
    assert copy.deepcopy(folded).packed is None


@pytest.mark.parametrize("channels", [8, 24, 32])
@pytest.mark.parametrize("learning", [True, False])
def test_strided_convolutions_of_any_number_of_channels(channels: int, learning: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 16, 1, stride=2, bias=False).to(memory_format=torch.channels_last)
    norm = nn.BatchNorm2d(16).train(learning)
    x = torch.randn(2, channels, 38, 19).to(memory_format=torch.channels_last).requires_grad_(learning)
    y = convolution_and_norm(x, conv, norm)
    expected = norm(F.conv2d(x.double(), conv.weight.double(), stride=2).float())
    torch.testing.assert_close(y, expected, atol=1e-4, rtol=1e-4)
