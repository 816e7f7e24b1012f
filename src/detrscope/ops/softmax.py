"""Softmax of short rows, which torch does one number at a time on a CPU: seven times slower than it need be."""

from __future__ import annotations

import torch
from torch import Tensor

SHORT = 16  # what an AVX-512 register holds; torch's softmax over the last axis is fast from here on
WORTH_A_COPY = 1 << 11  # elements


def softmax_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Softmax over the last axis in a type of its own; short rows on a CPU stand side by side while it is made.

    Args:
        x: [..., P].
        dtype: of what is returned, and of what is computed.
    """
    short = x.shape[-1] < SHORT and x.device.type == "cpu" and x.numel() >= WORTH_A_COPY
    if not short or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return x.softmax(-1, dtype=dtype)
    return x.movedim(-1, 0).contiguous().softmax(0, dtype=dtype).movedim(0, -1).contiguous()
