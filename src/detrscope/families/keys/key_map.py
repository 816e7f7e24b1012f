"""Key layouts: tables that rename a published checkpoint's tensors; an unknown key is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detrscope.core.errors import UserError
from detrscope.families.keys.shapes import some_keys

Rule = tuple[str, str]
"""(pattern of the whole third-party key, our key). `{a|b|c}` in our key splits the tensor in equal parts along its
first axis, one for each name; an empty string drops the key."""

Finalize = Callable[[dict[str, Tensor], Mapping[str, Any]], dict[str, Tensor]]
"""(renamed tensors, settings from the checkpoint's own config) -> the model's state dict."""


@dataclass(frozen=True)
class KeyLayout:
    """One way of naming a family's parameters.

    Attributes:
        name: for messages.
        mark: the key by which a checkpoint of this layout is recognised.
        rules: renames, tried in order.
        finalize: changes to the renamed tensors that no rename can express.
        release: beginning of the names of the variants published in it, where other variants have the same settings.
    """

    name: str
    mark: str
    rules: tuple[Rule, ...]
    finalize: Finalize = lambda state, settings: state
    release: str = ""

    def rename(self, state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
        """Rename the tensors of a checkpoint to the model's keys.

        Args:
            state: tensors by third-party key.
            settings: settings from the checkpoint's own config, under this package's names.

        Raises:
            UserError: lists keys that match no rule, or keys for the same tensor whose contents differ.
        """
        rules = [(re.compile(pattern), ours) for pattern, ours in self.rules]
        renamed: dict[str, Tensor] = {}
        unknown, differing = [], []
        for key, tensor in state.items():
            for pattern, ours in rules:
                if match := pattern.fullmatch(key):
                    parts = _split(match.expand(ours), tensor)
                    differing += [k for k in parts if k in renamed and not torch.equal(renamed[k], parts[k])]
                    renamed.update(parts)
                    break
            else:
                unknown.append(key)
        if unknown:
            raise UserError(f"{len(unknown)} keys unknown to the {self.name} layout: {some_keys(unknown)}")
        if differing:
            raise UserError(f"several keys of different content for the same tensor: {some_keys(differing)}")
        return self.finalize(renamed, settings)


def _split(ours: str, tensor: Tensor) -> dict[str, Tensor]:
    if not ours:
        return {}
    if (packed := re.search(r"\{(.*?)\}", ours)) is None:
        return {ours: tensor}
    names = packed[1].split("|")
    parts = tensor.chunk(len(names), dim=0)
    return {ours.replace(packed[0], name): part for name, part in zip(names, parts, strict=True)}


def layer_rules(
    ours: str,
    theirs: str,
    self_attention: tuple[Rule, ...],
    cross_attention: tuple[Rule, ...],
    rest: tuple[Rule, ...],
) -> tuple[Rule, ...]:
    """Build the rules of a stack of numbered layers from the rules inside one layer."""
    inside = (
        *((p, f"self_attention.{o}") for p, o in self_attention),
        *((p, f"cross_attention.{o}") for p, o in cross_attention),
        *rest,
    )
    return tuple((rf"{theirs}\.layers\.(\d+)\.{p}", rf"{ours}.layers.\1.{o}") for p, o in inside)
