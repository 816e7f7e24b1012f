"""Softmax of short rows, which torch computes one number at a time on a CPU, several times slower than necessary."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SIMD_WIDTH = 16  # float32 numbers in an AVX-512 register; from here on torch's softmax of rows is fast
WORTH_A_COPY = 1 << 11  # elements


def softmax_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Compute the softmax over the last axis; on a CPU, short rows are padded with -inf meanwhile.

    Every row is computed alone, so that the result does not depend on the number of threads.

    Args:
        x: [..., P].
        dtype: type of the computation and of the result.
    """
    short = x.shape[-1] < SIMD_WIDTH and x.device.type == "cpu" and x.numel() >= WORTH_A_COPY
    if not short or torch.compiler.is_compiling() or torch._C._is_tracing():
        return x.softmax(-1, dtype=dtype)
    padded = F.pad(x, (0, SIMD_WIDTH - x.shape[-1]), value=float("-inf"))
    return padded.softmax(-1, dtype=dtype)[..., : x.shape[-1]].contiguous()
