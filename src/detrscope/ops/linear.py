"""Linear layers by oneDNN where it may stand in for torch's own choice, and two of them without their hidden map.

On AMD's processors torch's matrix product of float32 runs at well below half of what oneDNN reaches.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detrscope.ops.convolution import may_use_onednn

ROWS = 2048  # of a hidden map at once: few enough for the cache, enough for the matrix product


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
    """`relu(x @ weight^T + bias)`, or without the ReLU.

    Args:
        x: [..., I].
        weight: [O, I].
        bias: [O] or None.
        relu: whether a ReLU follows.

    Returns:
        [..., O].
    """
    if not may_use_onednn(x, weight):
        y = F.linear(x, weight, bias)
        return F.relu(y) if relu else y
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu" if relu else "none", [], "")


def two_linear(
    x: Tensor, expand: Tensor, expand_bias: Tensor, contract: Tensor, contract_bias: Tensor
) -> Tensor:
    """A linear layer, a ReLU and a linear layer over many tokens, some at a time: no hidden map is ever whole.

    Args:
        x: [..., D].
        expand: [H, D].
        expand_bias: [H].
        contract: [D, H].
        contract_bias: [D].

    Returns:
        [..., D].
    """
    rows = x.flatten(0, -2)  # [n, D]
    parts = [
        linear(linear(part, expand, expand_bias, relu=True), contract, contract_bias)
        for part in rows.split(ROWS)
    ]
    return torch.cat(parts).view(*x.shape[:-1], -1) if len(parts) > 1 else parts[0].view(*x.shape[:-1], -1)
