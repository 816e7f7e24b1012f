"""Vision transformers as backbones: patches to tokens, attention of all of them or within windows, maps of some layers.

Dosovitskiy et al. 2020, arXiv:2010.11929; windows between layers of global attention: Li et al. 2022, arXiv:2203.16527.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrscope.blocks.encoder import EncoderLayer
from detrscope.core.probe import Probe
from detrscope.core.types import Level, Pyramid
from detrscope.ops.position import bicubic_matrix


class ViTBackbone(nn.Module):
    """A vision transformer whose attention is recorded at the sites `backbone.N.self`.

    Args:
        layers: of the tokens.
        width: D.
        patch: side of a patch in pixels, the stride of the maps.
        grid: side of the learned grid of positions, in tokens; other sizes are interpolated.
        maps: which layers give a feature map, from 0, in order.
    """

    def __init__(
        self, layers: list[EncoderLayer], width: int, patch: int, grid: int, maps: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(3, width, kernel_size=patch, stride=patch)
        self.position = nn.Parameter(torch.randn(width, grid, grid) * 0.02)
        self.layers = nn.ModuleList(layers)
        self.maps = maps
        self.channels = (width,) * len(maps)
        self.feature_sites = (
            "backbone.embedding",
            *(f"backbone.{number}.tokens" for number in range(len(layers))),
        )

    def forward(self, images: Tensor, probe: Probe | None = None) -> list[Tensor]:
        """[B, 3, H, W] -> [B, D, H / patch, W / patch] of each requested layer."""
        x = self.embedding(images)
        level = Level(*x.shape[-2:])
        x = self.place(x)
        tokens = self.begin(x.flatten(2).transpose(1, 2))  # [B, S, D]
        pyramid = Pyramid(tokens, tokens.new_zeros(1, 1, 1), (level,))
        maps = [x]
        for layer in self.layers:
            pyramid = replace(pyramid, tokens=layer(pyramid.tokens, pyramid, probe))
            maps.append(self.end(pyramid.tokens, level.tokens).transpose(1, 2).reshape(x.shape))
        for site, x in zip(self.feature_sites, maps, strict=True):
            if probe is not None and probe.records_features_of(site):
                probe.keep_features(site, x)
        return [maps[1 + number] for number in self.maps]

    def place(self, x: Tensor) -> Tensor:
        """Add positions to a map [B, D, H, W], interpolated to its size."""
        return x + F.interpolate(self.position[None], size=tuple(x.shape[-2:]), mode="bicubic").to(x.dtype)

    def begin(self, tokens: Tensor) -> Tensor:
        """Return the input of the first layer, from the tokens of the map [B, S, D]."""
        return tokens

    def end(self, tokens: Tensor, count: int) -> Tensor:
        """Return the tokens of the map, [B, count, D], from the output of a layer."""
        return tokens


class DinoBackbone(ViTBackbone):
    """DINOv2 (arXiv:2304.07193) with attention within windows, each of which has a copy of the class token.

    The copies are the last tokens, window by window; they lie on no map. RF-DETR (arXiv:2511.09554, section 3).

    Args:
        layers: of the tokens.
        width: D.
        patch: side of a patch in pixels, the stride of the maps.
        grid: side of the learned grid of positions, in tokens; other sizes are interpolated.
        maps: which layers give a feature map, from 0, in order.
        windows: number of windows.
    """

    def __init__(
        self,
        layers: list[EncoderLayer],
        width: int,
        patch: int,
        grid: int,
        maps: tuple[int, ...],
        windows: int,
    ) -> None:
        super().__init__(layers, width, patch, grid, maps)
        self.windows = windows
        self.class_token = nn.Parameter(torch.randn(width) * 0.02)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def place(self, x: Tensor) -> Tensor:
        """Add positions to a map [B, D, H, W], interpolated as Pillow does: bicubic, smoothed where fewer."""
        grid = self.position.shape[1]
        rows, columns = (bicubic_matrix(size, grid, self.position) for size in x.shape[-2:])
        # Products of matrices: OpenVINO multiplies none with stacks of them.
        across = (self.position.reshape(-1, grid) @ columns.T).view(-1, grid, columns.shape[0])
        position = (across.transpose(1, 2).reshape(-1, grid) @ rows.T).view(
            -1, columns.shape[0], rows.shape[0]
        )
        return x + position.transpose(1, 2).to(x.dtype)

    def begin(self, tokens: Tensor) -> Tensor:
        """Append the class tokens: [B, S, D] -> [B, S + windows, D]."""
        copies = self.class_token.to(tokens.dtype).expand(tokens.shape[0], self.windows, -1)
        return torch.cat([tokens, copies], dim=1)

    def end(self, tokens: Tensor, count: int) -> Tensor:
        """Normalise the tokens of the map: [B, S + windows, D] -> [B, S, D]."""
        normed: Tensor = self.norm(tokens[:, :count])
        return normed
