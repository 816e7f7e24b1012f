"""Decoders: queries attend to one another and to the tokens, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from detrscope.blocks.attention import QuerySelfAttention
from detrscope.blocks.layers import FeedForward, Residual
from detrscope.core.probe import Probe
from detrscope.core.types import EdgeEstimate, Pyramid, Queries, States
from detrscope.ops.position import position_as_box, position_valid_ratios, sine_boxes, sine_coordinates

Refine = Callable[[int, Tensor, Tensor | None], Tensor | None]
"""(layer index, content [B, Q, D], reference points [B, Q, 2] or boxes_cxcywh [B, Q, 4] or None) -> the next layer's
reference."""

RefineEdges = Callable[[int, Tensor, EdgeEstimate | Tensor], EdgeEstimate]
"""(layer index, content [B, Q, D], the estimate before, or boxes_cxcywh [B, Q, 4] in the first layer) -> the
layer's estimate."""

MAX_POSITION = 10.0  # of D-FINE's positions in each channel, as published


class DecoderLayer(nn.Module):
    """Self-attention of queries, cross-attention to tokens, feed-forward; each with its residual.

    Args:
        self_attention: of the queries.
        cross_attention: dense, conditional or deformable: (content [B, Q, D], position [B, Q, D], reference, pyramid,
            probe) -> [B, Q, D].
        feedforward: [B, Q, D] -> [B, Q, D].
        residuals: of self-attention, cross-attention and feed-forward.
    """

    def __init__(
        self,
        self_attention: QuerySelfAttention,
        cross_attention: nn.Module,
        feedforward: FeedForward,
        residuals: tuple[Residual, Residual, Residual],
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.cross_attention = cross_attention
        self.feedforward = feedforward
        self.self_residual, self.cross_residual, self.feedforward_residual = residuals

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor | None,
        mask: Tensor | None,
        pyramid: Pyramid,
        probe: Probe | None,
    ) -> Tensor:
        """[B, Q, D] -> [B, Q, D].

        Args:
            x: content [B, Q, D].
            position: positional encoding of the queries [B, Q, D].
            reference: points [B, Q, 2] or boxes_cxcywh [B, Q, 4], where the family has them.
            mask: [Q, Q], True where a query must not attend to another.
            pyramid: tokens to attend to.
            probe: records and edits; None in training.
        """
        y = self.self_residual.enter(x)
        x = self.self_residual.leave(x, self.self_attention(y, position, mask, probe))
        y = self.cross_residual.enter(x)
        x = self.cross_residual.leave(x, self.cross_attention(y, position, reference, pyramid, probe))
        return self.feedforward_residual.leave(x, self.feedforward(self.feedforward_residual.enter(x)))


class Decoder(nn.Module):
    """A stack of layers whose every state is normalised and read out (auxiliary losses: DETR, section 3.2).

    Reference points or boxes go along where the queries have them, and the heads may refine them after each layer
    (Deformable DETR, arXiv:2010.04159, section 4.1 and appendix A.4).
    """

    def __init__(self, layers: list[DecoderLayer], norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def position_of(self, queries: Queries, reference: Tensor | None) -> Tensor:
        """Return the positional encoding [B, Q, D] of queries in a layer: here the queries' own."""
        return queries.position

    def forward(
        self, queries: Queries, pyramid: Pyramid, refine: Refine, probe: Probe | None = None
    ) -> States:
        """Return every layer's state [N, B, Q, D] and the boxes it starts from [N, B, Q, 4], where there are any."""
        x = queries.content
        reference = queries.points if queries.boxes_cxcywh is None else queries.boxes_cxcywh
        contents, references = [], []
        for index, layer in enumerate(self.layers):
            position = self.position_of(queries, reference)
            x = layer(x, position, reference, queries.mask, pyramid, probe)
            contents.append(self.norm(x))
            if reference is not None:
                references.append(position_as_box(reference))
            reference = refine(index, contents[-1], reference)
        boxes = torch.stack(references) if references else None
        return States(torch.stack(contents), boxes, queries.proposals)


class BoxPositionDecoder(Decoder):
    """Decoder whose positions encode each layer's reference boxes (DAB-DETR, arXiv:2201.12329, section 4)."""

    def __init__(self, layers: list[DecoderLayer], norm: nn.Module, position: nn.Module) -> None:
        super().__init__(layers, norm)
        self.position = position

    def position_of(self, queries: Queries, reference: Tensor | None) -> Tensor:
        """Return the encoding [B, Q, D] of reference boxes [B, Q, 4]."""
        assert reference is not None, "this decoder starts from reference boxes"
        content = queries.content
        position: Tensor = self.position(
            sine_coordinates(reference, content.shape[-1] // 2).to(content.dtype)
        )
        return position


class BoxMLPDecoder(Decoder):
    """Decoder whose positions are an MLP of each layer's reference boxes (RT-DETR, arXiv:2304.08069)."""

    def __init__(self, layers: list[DecoderLayer], norm: nn.Module, position: nn.Module) -> None:
        super().__init__(layers, norm)
        self.position = position

    def position_of(self, queries: Queries, reference: Tensor | None) -> Tensor:
        """Return the encoding [B, Q, D] of reference boxes [B, Q, 4]."""
        assert reference is not None, "this decoder starts from reference boxes"
        position: Tensor = self.position(reference.to(queries.content.dtype))
        return position


class DistributionDecoder(nn.Module):
    """Decoder whose heads refine boxes as distributions of their edges (D-FINE, arXiv:2410.13842, section 4.1).

    Args:
        layers: of the stack.
        position: reference boxes [B, Q, 4] -> positional encoding [B, Q, D].
    """

    def __init__(self, layers: list[DecoderLayer], position: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.position = position

    def position_of(self, reference: Tensor, before: Tensor | None) -> Tensor:
        """Return the encoding [B, Q, D] of reference boxes [B, Q, 4]; `before` is that of the layer before."""
        return cast(Tensor, self.position(reference).clamp(-MAX_POSITION, MAX_POSITION))

    def forward(
        self, queries: Queries, pyramid: Pyramid, refine: RefineEdges, probe: Probe | None = None
    ) -> States:
        """Return every layer's state [N, B, Q, D], the boxes it starts from [N, B, Q, 4] and those it comes to."""
        x, reference = queries.content, queries.boxes_cxcywh
        assert reference is not None, "this decoder starts from reference boxes"
        estimates: list[EdgeEstimate] = []
        position: Tensor | None = None
        references = []
        for index, layer in enumerate(self.layers):
            position = self.position_of(reference.to(x.dtype), position)
            x = layer(x, position, reference, queries.mask, pyramid, probe)
            references.append(reference)
            estimates.append(refine(index, x, estimates[-1] if estimates else reference))
            reference = estimates[-1].boxes_cxcywh.detach()
        content = torch.stack([estimate.content for estimate in estimates])
        return States(content, torch.stack(references), queries.proposals, tuple(estimates))


class FirstPositionDecoder(DistributionDecoder):
    """The same, with the positions of the first layer's references in all layers (DEIMv2, arXiv:2509.20787)."""

    def position_of(self, reference: Tensor, before: Tensor | None) -> Tensor:
        """Return the encoding [B, Q, D] of the first layer."""
        return super().position_of(reference, before) if before is None else before


class SineBoxDecoder(Decoder):
    """Decoder whose positions are an MLP of the sines of its reference boxes, which stay the same (LW-DETR).

    Boxes are encoded in the coordinates of the finest map with its padding, as published.
    """

    def __init__(self, layers: list[DecoderLayer], norm: nn.Module, position: nn.Module) -> None:
        super().__init__(layers, norm)
        self.position = position

    def forward(
        self, queries: Queries, pyramid: Pyramid, refine: Refine, probe: Probe | None = None
    ) -> States:
        """Return every layer's state [N, B, Q, D] and the boxes it starts from [N, B, Q, 4]."""
        assert queries.boxes_cxcywh is not None, "this decoder starts from reference boxes"
        boxes, content = queries.boxes_cxcywh, queries.content
        ratio = position_valid_ratios(pyramid.padding, pyramid.levels, boxes)[:, :1]  # [B or 1, 1, 2]
        placed = (boxes * torch.cat([ratio, ratio], dim=-1))[..., [1, 0, 2, 3]]  # y, x, w, h
        position = self.position(sine_boxes(placed, content.shape[-1] // 2).to(content.dtype))
        return super().forward(replace(queries, position=position), pyramid, refine, probe)


class LastStateDecoder(Decoder):
    """Decoder that reads out the last layer only, as nn.TransformerDecoder does."""

    def forward(
        self, queries: Queries, pyramid: Pyramid, refine: Refine, probe: Probe | None = None
    ) -> States:
        """Return the last layer's state [1, B, Q, D]."""
        return States(super().forward(queries, pyramid, refine, probe).content[-1:])
