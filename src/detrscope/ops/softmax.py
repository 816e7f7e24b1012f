"""Softmax of short rows, which torch does one number at a time on a CPU: several times slower than it need be."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WIDE = 16  # numbers in an AVX-512 register; from here on torch's softmax of rows is fast
WORTH_A_COPY = 1 << 11  # elements


def softmax_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Softmax over the last axis in a type of its own; on a CPU, short rows are made wide with -inf meanwhile.

    Every row is computed alone, so that the result does not depend on the number of threads.

    Args:
        x: [..., P].
        dtype: of what is returned, and of what is computed.
    """
    short = x.shape[-1] < WIDE and x.device.type == "cpu" and x.numel() >= WORTH_A_COPY
    if not short or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return x.softmax(-1, dtype=dtype)
    wide = F.pad(x, (0, WIDE - x.shape[-1]), value=float("-inf"))
    return wide.softmax(-1, dtype=dtype)[..., : x.shape[-1]].contiguous()
