"""Dropout with cheap masks on a CPU, where torch draws them one by one: a tenth of a DETR's training step.

Srivastava et al. 2014, jmlr.org/papers/v15/srivastava14a.html, in its scaled form.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PER_DRAW = 4  # 16-bit numbers in one draw of 64 bits


def dropout(x: Tensor, probability: float) -> Tensor:
    """Zero each element of [...] with a probability and scale the others up, so that the mean stays.

    On a CPU the mask consists of 16-bit numbers from SFC64, seeded by one draw from torch's generator: the probability
    is exact to 1/65,536, and restoring torch's generator restores the masks.

    Args:
        x: any shape.
        probability: 0 to less than 1.
    """
    if probability == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability, training=True)
    seed = int(torch.randint(2**62, ()))
    words = np.random.SFC64(seed).random_raw(-(-x.numel() // PER_DRAW))
    draws = torch.from_numpy(words.view(np.int16))[: x.numel()].view(x.shape)  # uniform in -32768..32767
    keep = draws >= round(probability * 65536) - 32768
    # A product with int8; torch.where takes ten times as long.
    return (x * keep.view(torch.int8)).mul_(1 / (1 - probability))
