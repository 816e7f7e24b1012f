"""Weights, gradients and optimiser state divided among the processes, for a model that fits no device whole (FSDP).

torch's `fully_shard`: each process keeps its part of every tensor, and gathers those of a layer while it computes it.
Checkpoints hold whole tensors, so that a run may go on, and its model be used, with any number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from detrscope.core.distributed import rank_and_world


def shard_model(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Divide the parameters of a `FabricForward`: layer by layer, then all others together.

    Units are modules that are called once in a forward pass and return tensors. The rest, among it the heads, which the
    decoder calls between its layers, stays whole from the start of a forward to the end of its backward pass.
    """
    processes = mesh["data_parallel"] if "data_parallel" in (mesh.mesh_dim_names or ()) else mesh
    model = module.get_submodule("model")
    units = [model.get_submodule("backbone")]
    for part in ("encoder", "decoder"):
        layers = getattr(model.get_submodule(part), "layers", None)
        units += list(layers) if isinstance(layers, nn.ModuleList) else []
    for unit in units:
        fully_shard(unit, mesh=processes)
    fully_shard(module, mesh=processes)
    return module


def whole(value: Any) -> Any:
    """Return tensors, in dicts and lists, whole: on the CPU in the first process, and nothing in the others.

    Must be called by every process with the same structure. Tensors that are not divided stay as they are.
    """
    if isinstance(value, DTensor):
        gathered = value.full_tensor()
        return gathered.cpu() if rank_and_world()[0] == 0 else None
    if isinstance(value, Mapping):
        return {key: whole(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(part) for part in value)
    return value


def gathered_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the whole weights of a divided model, on the device of every process; all must call it."""
    state = model.state_dict().items()
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in state}


def divided(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a whole tensor, divided as `like` is; the tensor itself where that is whole."""
    if not isinstance(like, DTensor):
        return tensor
    placed = tensor.to(device=like.device, dtype=like.dtype)
    return distribute_tensor(placed, like.device_mesh, like.placements, src_data_rank=None)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load whole weights into a model that may be divided.

    Raises:
        RuntimeError: names or shapes do not fit.
    """
    own = model.state_dict()
    if any(isinstance(tensor, DTensor) for tensor in own.values()):
        wrong = [n for n in own if n in weights and own[n].shape != weights[n].shape]
        if wrong:
            raise RuntimeError(f"{wrong[0]} has another shape")
        weights = {
            name: divided(tensor, own[name]) if name in own else tensor for name, tensor in weights.items()
        }
    model.load_state_dict(weights)


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load the state of an optimizer, of whole tensors, into one whose parameters may be divided.

    Raises:
        ValueError: groups do not fit.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    rows = {
        key: {
            name: divided(value, parameters[key])
            if key < len(parameters) and isinstance(value, Tensor) and value.shape == parameters[key].shape
            else value
            for name, value in row.items()
        }
        for key, row in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": rows})
