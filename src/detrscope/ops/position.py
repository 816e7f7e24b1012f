"""Positions: token centres, sine encodings, reference points and boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from detrscope.core.types import Level


def unpadded_positions(
    padding: Tensor | None, height: int, width: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Count the unpadded rows and columns up to each pixel, from 1.

    Returns:
        y, x: [B or 1, H, W] float32.
    """
    if padding is None:
        y = torch.arange(1, height + 1, dtype=torch.float32, device=like.device)
        x = torch.arange(1, width + 1, dtype=torch.float32, device=like.device)
        return y.view(1, -1, 1).expand(1, height, width), x.view(1, 1, -1).expand(1, height, width)
    inside = (~padding).float()  # [B, H, W]
    return inside.cumsum(1), inside.cumsum(2)


def positions_of_tokens(padding: Tensor | None, height: int, width: int, like: Tensor) -> Tensor:
    """Return the centre x, y of each token of a map, 0..1 of the unpadded image: [B or 1, H*W, 2] float32.

    Args:
        padding: [B, H, W] bool, True at padding, or None.
        height: H.
        width: W.
        like: gives the device.
    """
    y, x = unpadded_positions(padding, height, width, like)  # counts from 1
    inside_y = y[:, -1:, :].clamp(min=1)
    inside_x = x[:, :, -1:].clamp(min=1)
    return torch.stack([(x - 0.5) / inside_x, (y - 0.5) / inside_y], dim=-1).flatten(1, 2)


def positions_of_pyramid(padding: Tensor | None, levels: Sequence[Level], like: Tensor) -> Tensor:
    """Return the centre x, y of each token of all maps: [B or 1, S, 2] float32.

    Centres are 0..1 of the unpadded image and beyond 1 in padding.

    Args:
        padding: [B, S] bool, True at padding; S runs over the levels in order. Images lie at the upper left.
        levels: sizes of the maps.
        like: gives the device, and the type where it is float64.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    ratios = position_valid_ratios(padding, levels, like.new_ones((), dtype=dtype))  # [B or 1, L, 2]
    centres = []
    for ratio, (height, width) in zip(ratios.unbind(1), levels, strict=True):
        y = (torch.arange(height, device=like.device, dtype=dtype) + 0.5) / (height * ratio[:, 1:])  # [B, H]
        x = (torch.arange(width, device=like.device, dtype=dtype) + 0.5) / (width * ratio[:, :1])  # [B, W]
        y, x = y[:, :, None].expand(-1, -1, width), x[:, None].expand(-1, height, -1)
        centres.append(torch.stack([x, y], dim=-1).flatten(1, 2))  # [B, H*W, 2]
    return torch.cat(centres, dim=1)


def position_valid_ratios(padding: Tensor | None, levels: Sequence[Level], like: Tensor) -> Tensor:
    """Return the share of each map that is image, along x and y: [B, L, 2], or ones [1, L, 2] without padding.

    Multiplied by it, coordinates of the unpadded image become coordinates of each padded map.

    Args:
        padding: [B, S] bool, True at padding; S runs over the levels in order. Images lie at the upper left.
        levels: sizes of the L maps.
        like: gives device and dtype.
    """
    if padding is None:
        return like.new_ones(1, len(levels), 2)
    ratios = []
    parts = torch.split(padding, [h * w for h, w in levels], dim=1)
    for part, (height, width) in zip(parts, levels, strict=True):
        inside = ~part.reshape(-1, height, width)  # [B, H, W]
        ratios.append(torch.stack([inside[:, 0].sum(1) / width, inside[:, :, 0].sum(1) / height], dim=-1))
    return torch.stack(ratios, dim=1).to(like.dtype)


def sine_coordinates(coordinates: Tensor, channels: int) -> Tensor:
    """Encode coordinates by sines of temperature 20, as DAB-DETR does (arXiv:2201.12329, section 4.4).

    Args:
        coordinates: [..., n] in 0..1, such as x, y or cx, cy, w, h.
        channels: per coordinate, even.

    Returns:
        [..., n * channels], sines of a coordinate before its cosines.
    """
    power = torch.arange(channels // 2, device=coordinates.device, dtype=torch.float32) / (channels // 2)
    angle = coordinates.float()[..., None] * (8 * math.pi) / 20**power  # [..., n, channels/2]
    return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2).to(coordinates.dtype)


def sine_boxes(boxes: Tensor, channels: int) -> Tensor:
    """Encode coordinates by sines of temperature 10,000, sine and cosine interleaved.

    This is `sine_position`'s encoding of numbers in 0..1 (Deformable DETR, arXiv:2010.04159, appendix A.4).

    Args:
        boxes: [..., n] coordinates in 0..1.
        channels: per coordinate, even.

    Returns:
        [..., n * channels].
    """
    return _interleaved(boxes * (2 * math.pi), channels).flatten(-2)


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Return the logit of numbers in 0..1, clamped `eps` away from both ends."""
    x = x.clamp(min=eps, max=1 - eps)
    return torch.log(x / (1 - x))


def position_as_box(reference: Tensor) -> Tensor:
    """Turn reference points into boxes of half the image's size, whose logit is 0: [..., 2 or 4] -> [..., 4].

    A head that adds to this logit then predicts the logit of the size itself. Boxes stay as they are.
    """
    if reference.shape[-1] == 4:
        return reference
    return torch.cat([reference, torch.full_like(reference, 0.5)], dim=-1)


def sine_position(
    padding: Tensor | None, height: int, width: int, channels: int, like: Tensor, offset: float = 0.0
) -> Tensor:
    """Return the fixed two-dimensional sine encoding, normalised to the unpadded image.

    The encoding of Vaswani et al. 2017 (section 3.5) along y and x, half of the channels each, as DETR uses it
    (arXiv:2005.12872, appendix A.4), with sine and cosine interleaved and temperature 10,000.

    Args:
        padding: [B, H, W] bool, True at padding, or None.
        height: H.
        width: W.
        channels: D, a multiple of 4.
        like: gives device and dtype.
        offset: added to the running count before normalising (-0.5 in Deformable DETR).

    Returns:
        [B, H*W, D], or [1, H*W, D] without padding.
    """
    y, x = unpadded_positions(padding, height, width, like)
    eps = 1e-6
    y = (y + offset) / (y[:, -1:, :] + eps) * (2 * math.pi)
    x = (x + offset) / (x[:, :, -1:] + eps) * (2 * math.pi)
    parts = [_interleaved(angle, channels // 2) for angle in (y, x)]  # [B, H, W, D/2] each
    return torch.cat(parts, dim=-1).flatten(1, 2).to(like.dtype)


def sine_grid(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Return the sine encoding of rows and columns, counted from 0: [1, H*W, D].

    Sines, then cosines, of the row, then of the column, a quarter of the channels each, with temperature 10,000 (He et
    al. 2022, arXiv:2111.06377; RT-DETR uses it for its coarsest map).

    Args:
        height: H.
        width: W.
        channels: D, a multiple of 4.
        like: gives device and dtype.
    """
    exponent = torch.arange(channels // 4, device=like.device, dtype=torch.float64) / (channels // 4)
    y, x = (torch.arange(n, device=like.device, dtype=torch.float64) for n in (height, width))
    rows, columns = (n[:, None] / 10000**exponent for n in (y, x))  # [H, D/4], [W, D/4]
    rows, columns = (torch.cat([angle.sin(), angle.cos()], dim=-1) for angle in (rows, columns))
    grid = torch.cat([rows[:, None].expand(-1, width, -1), columns.expand(height, -1, -1)], dim=-1)
    return grid.flatten(0, 1)[None].to(like.dtype)


def _interleaved(angle: Tensor, channels: int) -> Tensor:
    """Return sine, cosine, sine ... of an angle at increasing periods: [...] -> [..., channels]."""
    steps = torch.arange(channels, device=angle.device, dtype=torch.float32)
    period = 10000 ** (steps.div(2, rounding_mode="floor") * 2 / channels)  # [channels], equal in pairs
    scaled = angle[..., None] / period
    return torch.stack([scaled[..., 0::2].sin(), scaled[..., 1::2].cos()], dim=-1).flatten(-2)


def bicubic_matrix(size: int, count: int, like: Tensor) -> Tensor:
    """Return the weights of `count` samples in each of `size`, as Pillow's bicubic resize has them: [size, count].

    Where there are fewer than before, the filter is as wide as they are apart. Written out, since exported graphs have
    no such resize of their own.

    Args:
        size: number of samples afterwards.
        count: number before.
        like: gives device and dtype.
    """
    step = like.new_full((), count, dtype=torch.float64) / size
    place = torch.arange(count, device=like.device) - (
        (torch.arange(size, device=like.device)[:, None] + 0.5) * step - 0.5
    )  # [size, count]
    x = (place / step.clamp(min=1)).abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weight = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    return (weight / weight.sum(1, keepdim=True)).to(like.dtype)
