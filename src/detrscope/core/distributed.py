"""Collective operations over torch.distributed; all of them also work in a single process."""

from __future__ import annotations

from typing import Literal, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def rank_and_world() -> tuple[int, int]:
    """Return this process's rank and the number of processes: 0 and 1 where torch.distributed is not set up."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def gather_objects(mine: T) -> list[T]:
    """Return the objects of all processes, in the order of their ranks, on every process."""
    _, world = rank_and_world()
    parts = [mine] * world
    if world > 1:
        torch.distributed.all_gather_object(parts, mine)
    return parts


def reduce_over_ranks(tensor: Tensor, how: Literal["sum", "mean", "max"]) -> Tensor:
    """Return the sum, mean or maximum of a tensor over all processes, on every process."""
    _, world = rank_and_world()
    if world == 1:
        return tensor
    total = tensor.clone()
    operation = torch.distributed.ReduceOp.MAX if how == "max" else torch.distributed.ReduceOp.SUM
    torch.distributed.all_reduce(total, operation)
    return total / world if how == "mean" else total


def any_rank(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is set in any process; `device` is where the backend's tensors live."""
    if rank_and_world()[1] == 1:  # spares the device a transfer
        return flag
    return bool(reduce_over_ranks(torch.tensor(float(flag), device=device), "sum") > 0)
