"""Parameter groups with their learning rates, and the optimizer over them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from detrscope.core.errors import UserError, suggest_nearest
from detrscope.training.muon import Muon
from detrscope.training.train_config import TrainConfig

if TYPE_CHECKING:
    from rich.table import Table

MIN_MATRIX_SIDE = 16  # shorter side; orthogonalising a smaller matrix moves too few directions


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate and a weight decay."""

    name: str
    parameters: dict[str, Tensor]
    lr: float
    weight_decay: float
    orthogonal: bool = False  # moved by Muon

    @property
    def size(self) -> int:
        """Number of scalars."""
        return sum(p.numel() for p in self.parameters.values())


def freeze(model: nn.Module, config: TrainConfig) -> None:
    """Freeze the backbone where its rate is 0, and every parameter that fits no pattern of `train_only`, if it has any.

    Raises:
        UserError: a pattern fits no parameter.
    """
    patterns, names = config.train_only, [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"train.train_only: '{pattern}' fits no parameter; {_nearest(pattern, names)}")
    for name, parameter in model.named_parameters():
        chosen = not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
        if not chosen or (config.lr_backbone == 0 and name.startswith("backbone.")):
            parameter.requires_grad_(False)


def keep_frozen_norms(model: nn.Module) -> None:
    """Switch batch norms with frozen parameters to evaluation mode, in which they keep their statistics."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not any(p.requires_grad for p in module.parameters()):
            module.eval()


def _nearest(pattern: str, names: Iterable[str]) -> str:
    """Return the nearest pattern of a module as a hint, or those of the outermost modules: a model has hundreds."""
    modules = {f"{name[:dot]}.*" for name in names for dot, letter in enumerate(name) if letter == "."}
    near = difflib.get_close_matches(pattern, sorted(modules), n=1)
    return suggest_nearest(pattern, near or {module for module in modules if module.count(".") == 1})


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[ParameterGroup]:
    """Group the trainable parameters by rate: `base`, `backbone`, `muon`, `muon.backbone`, patterns of `lr_factors`.

    The first pattern that fits a name wins, also over `backbone`. Where `decay_1d` is off, biases and norms of a group
    form another one, `NAME.1d`, without weight decay.

    Raises:
        UserError: a pattern fits no trainable parameter.
    """
    rates = {
        "base": config.lr,
        "backbone": config.lr_backbone,
        "muon": config.muon.lr,
        "muon.backbone": config.muon.lr * config.lr_backbone / config.lr if config.lr else 0.0,
        **{pattern: config.lr * factor for pattern, factor in config.lr_factors.items()},
    }
    members: dict[tuple[str, bool], dict[str, Tensor]] = {}
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in trainable.items():
        fitting = [pattern for pattern in config.lr_factors if fnmatchcase(name, pattern)]
        group = fitting[0] if fitting else "backbone" if name.startswith("backbone.") else "base"
        if config.muon.enabled and not fitting and is_hidden_matrix(name, parameter):
            group = "muon.backbone" if group == "backbone" else "muon"
        decays = config.decay_1d or parameter.ndim > 1
        members.setdefault((group, decays), {})[name] = parameter
    for pattern in config.lr_factors:
        if not any(fnmatchcase(name, pattern) for name in trainable):
            raise UserError(
                f"train.lr_factors: '{pattern}' fits no trainable parameter; {_nearest(pattern, trainable)}"
            )
    order = list(rates)
    groups = []
    for (name, decays), part in sorted(members.items(), key=lambda m: (order.index(m[0][0]), not m[0][1])):
        orthogonal = name.startswith("muon")
        decay = config.muon.weight_decay if orthogonal else config.weight_decay
        full_name = name if decays else f"{name}.1d"
        groups.append(ParameterGroup(full_name, part, rates[name], decay if decays else 0.0, orthogonal))
    return groups


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Return whether Muon suits: a matrix or convolution between hidden layers, not of heads, queries or embeddings."""
    depthwise = (
        parameter.ndim == 4 and parameter.shape[1] == 1
    )  # one filter a channel, not a map between channels
    if (
        parameter.ndim < 2
        or depthwise
        or name.startswith(("heads.", "queries.", "neck.position.", "neck.level"))
    ):
        return False
    return min(parameter.shape[0], parameter[0].numel()) >= MIN_MATRIX_SIDE


def groups_table(groups: Sequence[ParameterGroup], model: nn.Module) -> Table:
    """Return the groups as a table for the terminal, with the frozen parameters in the last row."""
    from rich.table import Table

    table = Table(title="parameter groups", title_justify="left")
    for heading in ("group", "tensors", "parameters", "learning rate", "weight decay"):
        table.add_column(heading, justify="left" if heading == "group" else "right")
    for g in groups:
        table.add_row(g.name, str(len(g.parameters)), f"{g.size:,}", f"{g.lr:g}", f"{g.weight_decay:g}")
    frozen = [p for p in model.parameters() if not p.requires_grad]
    if frozen:
        table.add_row("frozen", str(len(frozen)), f"{sum(p.numel() for p in frozen):,}", "-", "-")
    return table


def make_optimizer(groups: Sequence[ParameterGroup], config: TrainConfig) -> torch.optim.AdamW:
    """Make AdamW, or Muon, over the groups; the update is one fused kernel where the device has it."""
    scaled = config.precision == "fp16"  # its scaler must skip a whole step, and be undone before clipping
    fused = not scaled and all(
        p.device.type in ("cpu", "cuda") for group in groups for p in group.parameters.values()
    )
    settings = [
        {"name": g.name, "params": list(g.parameters.values()), "lr": g.lr, "weight_decay": g.weight_decay}
        for g in groups
    ]
    if not config.muon.enabled:
        return torch.optim.AdamW(settings, fused=fused)
    marked = [{**s, "orthogonal": g.orthogonal} for s, g in zip(settings, groups, strict=True)]
    return Muon(marked, momentum=config.muon.momentum, iterations=config.muon.iterations, fused=fused)


def set_rates(optimizer: torch.optim.Optimizer, groups: Sequence[ParameterGroup], factor: float) -> None:
    """Set every group's learning rate to its full rate times the schedule's factor."""
    for target, group in zip(optimizer.param_groups, groups, strict=True):
        target["lr"] = group.lr * factor
