"""Deformable attention blocks against equations 2 and 3 written out point by point."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detrscope.blocks.deformable_attention import (
    DeformableAttention,
    DeformableCrossAttention,
    DeformableSelfAttention,
)
from detrscope.core.probe import Probe
from detrscope.core.types import Level, Pyramid

LEVELS = (Level(5, 7), Level(3, 4))
POINTS = (3, 1)  # ragged
WIDTH, HEADS = 8, 2
RATIOS = torch.tensor(
    [[[1.0, 1.0], [1.0, 1.0]], [[1.0, 4 / 5], [3 / 4, 1.0]]]
)  # [B, L, 2] of image in padded maps


def random_pyramid(padded: bool) -> Pyramid:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 47, WIDTH, generator=generator)
    position = torch.randn(1, 47, WIDTH, generator=generator)
    maps = [torch.zeros(2, *level, dtype=torch.bool) for level in LEVELS]
    maps[0][1, 4:], maps[1][1, :, 3:] = True, True
    padding = torch.cat([m.flatten(1) for m in maps], dim=1) if padded else None
    return Pyramid(tokens, position, LEVELS, padding)


def randomised(block: DeformableAttention) -> DeformableAttention:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return block


@torch.no_grad()
def by_definition(block: DeformableAttention, query: Tensor, reference: Tensor, pyramid: Pyramid) -> Tensor:
    """The block in float64, point by point: reference [B, Q, L, 2 or 4] of each map."""
    images, queries, _ = query.shape
    value = torch.nn.functional.linear(pyramid.tokens, block.value.weight, block.value.bias)
    if pyramid.padding is not None:
        value[pyramid.padding] = 0
    offsets = torch.nn.functional.linear(query, block.offsets.weight, block.offsets.bias)
    scores = torch.nn.functional.linear(query, block.weights.weight, block.weights.bias)
    offsets = offsets.view(images, queries, HEADS, sum(POINTS), 2)
    weights = scores.view(images, queries, HEADS, sum(POINTS)).softmax(-1)
    mixed = torch.zeros(images, queries, WIDTH, dtype=query.dtype)
    size = WIDTH // HEADS
    levels = [level for level, count in enumerate(POINTS) for _ in range(count)]
    for b in range(images):
        for q in range(queries):
            for h in range(HEADS):
                for p, level in enumerate(levels):
                    height, width = LEVELS[level]
                    start = sum(a * c for a, c in LEVELS[:level])
                    at, offset = reference[b, q, level], offsets[b, q, h, p]
                    if len(at) == 2:
                        x, y = at[0] + offset[0] / width, at[1] + offset[1] / height
                    else:
                        x = at[0] + offset[0] / POINTS[level] * at[2] * 0.5
                        y = at[1] + offset[1] / POINTS[level] * at[3] * 0.5
                    x, y = float(x) * width - 0.5, float(y) * height - 0.5
                    for i in (math.floor(x), math.floor(x) + 1):
                        for j in (math.floor(y), math.floor(y) + 1):
                            if 0 <= i < width and 0 <= j < height:
                                share = (1 - abs(x - i)) * (1 - abs(y - j)) * weights[b, q, h, p]
                                cell = value[b, start + j * width + i, h * size : (h + 1) * size]
                                mixed[b, q, h * size : (h + 1) * size] += share * cell
    return torch.nn.functional.linear(mixed, block.output.weight, block.output.bias)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("coordinates", [2, 4])
def test_cross_attention_is_equation_3(padded: bool, coordinates: int) -> None:
    block = randomised(DeformableCrossAttention(WIDTH, HEADS, POINTS, "decoder.0.cross"))
    pyramid = random_pyramid(padded)
    generator = torch.Generator().manual_seed(2)
    x, position = torch.randn(2, 2, 6, WIDTH, generator=generator)
    boxes = torch.rand(2, 6, coordinates, generator=generator)
    out = block(x, position, boxes, pyramid)
    ratios = RATIOS if padded else torch.ones(2, 2, 2)
    reference = boxes[:, :, None] * ratios.repeat(1, 1, coordinates // 2)[:, None]
    exact = by_definition(block.double(), (x + position).double(), reference.double(), _double(pyramid))
    torch.testing.assert_close(out.double(), exact, atol=1e-5, rtol=1e-5)


def test_self_attention_samples_contents_around_token_centres() -> None:
    block = randomised(DeformableSelfAttention(WIDTH, HEADS, POINTS, "encoder.0.self"))
    centres = torch.rand(2, 47, 2, generator=torch.Generator().manual_seed(3))
    pyramid = replace(random_pyramid(padded=True), centres=centres)
    out = block(pyramid.tokens, pyramid)
    reference = centres[:, :, None] * RATIOS[:, None]
    query = (pyramid.tokens + pyramid.position).double()
    exact = by_definition(block.double(), query, reference.double(), _double(pyramid))
    torch.testing.assert_close(out.double(), exact, atol=1e-5, rtol=1e-5)


def test_points_start_in_one_direction_per_head() -> None:
    block = DeformableCrossAttention(32, 8, (4, 2), "decoder.0.cross")
    offsets = block.offsets.bias.detach().view(8, 6, 2)
    assert block.offsets.weight.abs().max() == 0 and block.weights.weight.abs().max() == 0
    torch.testing.assert_close(offsets.abs().amax(-1), torch.tensor([1.0, 2, 3, 4, 1, 2]).expand(8, -1))
    torch.testing.assert_close(offsets[2, 1], torch.tensor([0.0, 2.0]), atol=1e-6, rtol=0)  # a quarter turn
    torch.testing.assert_close(offsets[1, 0], torch.tensor([1.0, 1.0]))  # an eighth: a corner of the square


def test_points_stay_float32_under_autocast() -> None:
    block = DeformableCrossAttention(
        WIDTH, HEADS, POINTS, "decoder.0.cross"
    )  # zero weights: offsets are the bias
    pyramid, probes = random_pyramid(padded=False), (Probe(), Probe())
    x, boxes = torch.randn(2, 6, WIDTH), torch.rand(2, 6, 2)
    block(x, x, boxes, pyramid, probes[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        block(x, x, boxes, pyramid, probes[1])
    plain, rough = (probe.records["decoder.0.cross"].points for probe in probes)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, plain, atol=1e-6, rtol=0)


def _double(pyramid: Pyramid) -> Pyramid:
    return Pyramid(pyramid.tokens.double(), pyramid.position.double(), LEVELS, pyramid.padding)
