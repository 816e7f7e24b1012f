"""Model pipeline from image to boxes, shared by all families."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from torch import nn

from detrscope.blocks.backbone import Backbone
from detrscope.blocks.heads import DistributionHeads
from detrscope.blocks.masks import MaskHead, MaskInputs, image_extent, with_masks
from detrscope.blocks.queries import QueryModule, TrainingSupport
from detrscope.core.model_card import Scoring
from detrscope.core.probe import Probe
from detrscope.core.types import Batch, Outputs, Queries


class DetectionTransformer(nn.Module):
    """A detection transformer: backbone, neck, encoder, queries, decoder, heads.

    Training, evaluation, attention capture and export all call this one forward.

    Args:
        backbone: images -> feature maps.
        neck: feature maps -> tokens.
        encoder: tokens -> tokens.
        queries: tokens -> queries.
        decoder: queries, tokens -> states.
        heads: states -> outputs; their `refine` is called between decoder layers.
        scoring: how logits become scores.
        mask_head: states, tokens and finer maps -> masks; None where the model predicts boxes only.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: nn.Module,
        encoder: nn.Module,
        queries: QueryModule,
        decoder: nn.Module,
        heads: nn.Module,
        scoring: Scoring,
        mask_head: MaskHead | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.encoder = encoder
        self.queries = queries
        self.decoder = decoder
        self.heads = heads
        self.scoring: Scoring = scoring
        self.mask_head = mask_head

    def forward(self, batch: Batch, extra: Queries | None = None, probe: Probe | None = None) -> Outputs:
        """Images [B, 3, H, W] -> logits [N, B, Q, K], boxes_cxcywh [N, B, Q, 4], masks [B, Q, h, w] with a mask head.

        Args:
            batch: normalised images and their padding.
            extra: denoising queries, put in front of the model's own in training.
            probe: records attention and applies edits; without an edit the outputs stay the same to the last bit.
        """
        if probe is not None:
            probe.check(self.sites, self.feature_sites)
        maps = self.backbone(batch.images, probe)
        finer = 0 if self.mask_head is None else self.mask_head.finer_maps
        pyramid = projected = self.neck(maps[finer:], batch.padding)
        if probe is not None:
            probe.levels = pyramid.levels
            probe.shapes = {f"feature map {i}": tuple(m.shape) for i, m in enumerate(maps)}
            probe.shapes["tokens"] = tuple(pyramid.tokens.shape)
            probe.tokens = pyramid.tokens if probe.keeps_tokens else None
        pyramid = self.encoder(pyramid, probe)
        own = self.queries(pyramid)
        states = self.decoder(own.join(extra), pyramid, self.heads.refine, probe)
        outputs = cast(Outputs, self.heads(states))
        if self.mask_head is None:
            return outputs
        content = states.content[:, :, -own.content.shape[1] :]  # denoising queries get no masks
        selected = None if own.proposals is None else own.proposals.content
        height, width = batch.images.shape[2:]
        inputs = MaskInputs(maps[:finer], projected, pyramid, content, selected, (height, width))
        return with_masks(outputs, self.mask_head(inputs), image_extent(batch.padding, content))

    def fold_norms(self) -> None:
        """Multiply every norm of a convolution into it for good; for inference, since the state dict changes."""
        for module in list(self.modules()):
            if module is not self and callable(fold := getattr(module, "fold_norms", None)):
                fold()

    @property
    def training_support(self) -> TrainingSupport:
        """Training techniques that the model supports beside the set loss."""
        distributions = isinstance(self.heads, DistributionHeads)
        return replace(self.queries.training_support, distributions=distributions)

    @property
    def sites(self) -> tuple[str, ...]:
        """Attention sites in forward order."""
        return tuple(site for m in self.modules() if isinstance(site := getattr(m, "site", None), str))

    @property
    def feature_sites(self) -> tuple[str, ...]:
        """Convolutions of the backbone whose feature maps a probe can keep."""
        return self.backbone.feature_sites
