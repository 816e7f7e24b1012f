"""Decoders: queries look at each other and at the tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from detrscope.blocks.layers import Attention, FeedForward, Residual
from detrscope.core.probe import Probe
from detrscope.core.types import Pyramid, Queries, States
from detrscope.ops.position import as_boxes, sine_coordinates

Refine = Callable[[int, Tensor, Tensor | None], Tensor | None]
"""(layer index, content [B, Q, D], boxes_cxcywh [B, Q, 4], reference points [B, Q, 2] or None) -> what the next layer
starts from."""


class Sublayers(nn.Module):
    """The parts that every decoder layer has; how they are called is the layer's own."""

    def __init__(
        self,
        self_attention: Attention,
        cross_attention: nn.Module,
        feedforward: FeedForward,
        residuals: tuple[Residual, Residual, Residual],
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.cross_attention = cross_attention
        self.feedforward = feedforward
        self.self_residual, self.cross_residual, self.feedforward_residual = residuals


class DecoderLayer(Sublayers):
    """Self-attention among queries, cross-attention to tokens, feed-forward; each with its residual."""

    def forward(
        self, x: Tensor, queries: Queries, pyramid: Pyramid, where: Tensor, probe: Probe | None
    ) -> Tensor:
        """[B, Q, D] -> [B, Q, D]; `where` is tokens + position [B, S, D], the same for every layer."""
        y = self.self_residual.enter(x)
        asking = y + queries.position
        x = self.self_residual.leave(
            x, self.self_attention(asking, asking, y, mask=queries.mask, probe=probe)
        )
        asking = self.cross_residual.enter(x) + queries.position
        seen = self.cross_attention(asking, where, pyramid.tokens, padding=pyramid.padding, probe=probe)
        x = self.cross_residual.leave(x, seen)
        return self.feedforward_residual.leave(x, self.feedforward(self.feedforward_residual.enter(x)))


class Decoder(nn.Module):
    """Layers one after the other; one norm reads the state out after each (DETR, auxiliary decoding losses)."""

    def __init__(self, layers: list[DecoderLayer], norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(
        self, queries: Queries, pyramid: Pyramid, refine: Refine, probe: Probe | None = None
    ) -> States:
        """Every layer's state: content [N, B, Q, D], and the boxes each prediction refines, where there are any."""
        x = queries.content
        boxes = queries.boxes_cxcywh
        where = pyramid.tokens + pyramid.position
        contents, references = [], []
        for index, layer in enumerate(self.layers):
            x = layer(x, queries, pyramid, where, probe)
            contents.append(self.norm(x))
            if boxes is not None:
                references.append(boxes)
            boxes = refine(index, contents[-1], boxes)
        return States(torch.stack(contents), torch.stack(references) if references else None)


class LastStateDecoder(Decoder):
    """The same, read out after the last layer only (nn.TransformerDecoder)."""

    def forward(
        self, queries: Queries, pyramid: Pyramid, refine: Refine, probe: Probe | None = None
    ) -> States:
        """The last layer's state: content [1, B, Q, D]."""
        x = queries.content
        where = pyramid.tokens + pyramid.position
        for layer in self.layers:
            x = layer(x, queries, pyramid, where, probe)
        return States(self.norm(x)[None])


class RefiningDecoderLayer(Sublayers):
    """A decoder layer whose cross-attention knows where each query's reference box is.

    The cross-attention is any module that maps (content, position, boxes, pyramid, probe) to content.
    """

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        boxes: Tensor,
        mask: Tensor | None,
        pyramid: Pyramid,
        probe: Probe | None,
    ) -> Tensor:
        """Content and position [B, Q, D], boxes_cxcywh [B, Q, 4] (or points [B, Q, 2]) -> [B, Q, D]."""
        y = self.self_residual.enter(x)
        asking = y + position
        x = self.self_residual.leave(x, self.self_attention(asking, asking, y, mask=mask, probe=probe))
        y = self.cross_residual.enter(x)
        x = self.cross_residual.leave(x, self.cross_attention(y, position, boxes, pyramid, probe))
        return self.feedforward_residual.leave(x, self.feedforward(self.feedforward_residual.enter(x)))


class RefiningDecoder(nn.Module):
    """Reference boxes that every layer refines, and positions made of them (DAB-DETR, arXiv:2201.12329, section 4)."""

    def __init__(self, layers: list[RefiningDecoderLayer], norm: nn.Module, position: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.position = position

    def forward(
        self, queries: Queries, pyramid: Pyramid, refine: Refine, probe: Probe | None = None
    ) -> States:
        """Every layer's state [N, B, Q, D] and the boxes it starts from [N, B, Q, 4]."""
        x, boxes = queries.content, queries.boxes_cxcywh
        assert boxes is not None, "this decoder starts from reference boxes"
        contents, references = [], []
        for index, layer in enumerate(self.layers):
            position = self.position(sine_coordinates(boxes, x.shape[-1] // 2).to(x.dtype))  # [B, Q, D]
            x = layer(x, position, boxes, queries.mask, pyramid, probe)
            contents.append(self.norm(x))
            references.append(boxes)
            refined = refine(index, contents[-1], boxes)
            boxes = boxes if refined is None else refined
        return States(torch.stack(contents), torch.stack(references), queries.proposals)


class ReferenceDecoder(nn.Module):
    """Reference points or boxes that tell each layer where to look, beside learned positions (Deformable DETR, 4.1)."""

    def __init__(self, layers: list[RefiningDecoderLayer], norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(
        self, queries: Queries, pyramid: Pyramid, refine: Refine, probe: Probe | None = None
    ) -> States:
        """Every layer's state [N, B, Q, D] and the boxes it starts from [N, B, Q, 4]."""
        x = queries.content
        reference = queries.points if queries.boxes_cxcywh is None else queries.boxes_cxcywh
        contents, references = [], []
        for index, layer in enumerate(self.layers):
            assert reference is not None, "this decoder starts from reference points or boxes"
            x = layer(x, queries.position, reference, queries.mask, pyramid, probe)
            contents.append(self.norm(x))
            references.append(as_boxes(reference))
            reference = refine(index, contents[-1], reference)
        return States(torch.stack(contents), torch.stack(references), queries.proposals)
