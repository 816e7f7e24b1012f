"""Lower bound of the memory that a training run needs, before any of it is allocated."""

from __future__ import annotations

import torch

from detrscope import families
from detrscope.core.errors import UserError
from detrscope.data.pixel_cache import format_bytes, free_memory_for_pixels
from detrscope.training.config import RunConfig

FLOAT = 4  # bytes
COPIES = 4  # of the weights: themselves, gradients, the two averages of AdamW
# Tensors stored for the backward pass, at least:
MAPS = 20  # of the size of the images, by the first layers of a backbone
LAYER = 8  # of the size of the queries, by a decoder layer: query, key, value, feed-forward ...


def estimate_memory(config: RunConfig, classes: int) -> int:
    """Estimate the bytes of the model, its optimizer and part of the activations of one micro-batch."""
    model = config.model
    with torch.device("meta"):  # shapes only
        built = families.build(model.variant, model.overrides, classes)
    parameters = sum(parameter.numel() for parameter in built.parameters())
    settings = families.resolve_variant(model.variant, model.overrides)
    images = config.images_per_micro_batch
    layers = settings.decoder.layers
    queries = families.family_query_count(model.variant, model.overrides)
    activations: int = images * queries * settings.width * layers * LAYER
    activations += images * queries * classes * (layers + 1)
    side = config.data.square or config.data.short_side
    activations += images * 3 * side**2 * MAPS
    weights = parameters * (COPIES + config.train.ema.enabled)
    return FLOAT * (weights + activations)


def check_memory(config: RunConfig, classes: int, device: torch.device) -> None:
    """Refuse a training run that cannot fit into memory.

    Raises:
        UserError: it needs more than is free.
    """
    needed = estimate_memory(config, classes)
    if device.type == "cuda":
        free: int | None = torch.cuda.mem_get_info(device)[0]
    else:
        free = free_memory_for_pixels()
    if free is not None and needed > free:
        raise UserError(
            f"this training needs at least {format_bytes(needed)} of memory, {format_bytes(free)} are free;"
            " use fewer queries (model.overrides.queries), smaller images (data.short_side or data.square), a"
            " smaller data.batch_size"
            " or a larger train.accumulate"
        )
