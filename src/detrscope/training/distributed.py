"""Numbers of the processes that train together."""

from __future__ import annotations

from typing import Literal

import torch
from lightning.fabric import Fabric
from torch import Tensor


def mean_over_ranks(fabric: Fabric, tensor: Tensor, how: Literal["sum", "mean"]) -> Tensor:
    """The sum or mean of a tensor over all processes; the tensor itself where there is one."""
    reduced = fabric.all_reduce(tensor, reduce_op=how)
    assert isinstance(reduced, Tensor)
    return reduced


def any_rank(fabric: Fabric, here: bool) -> bool:
    """Whether it is so in any process."""
    if fabric.world_size == 1:
        return here
    return bool(mean_over_ranks(fabric, torch.tensor(float(here), device=fabric.device), "sum") > 0)
