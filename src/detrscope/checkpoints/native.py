"""Our checkpoint: one safetensors file whose header holds the model card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from detrscope.blocks.path import DetectionTransformer
from detrscope.console import atomic_write
from detrscope.core.errors import UserError, nearest
from detrscope.core.model_card import ModelCard
from detrscope.core.text_files import parse_json
from detrscope.families import FAMILIES, config_of
from detrscope.families.keys.shapes import compare, listed

HEADER = "detrscope"


def save_checkpoint(path: str | Path, model: nn.Module, card: ModelCard) -> None:
    """Weights and card to one file, whole or not at all."""
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(state, temporary, metadata={HEADER: json.dumps(card.to_json()), "format": "pt"})


def read_card(path: str | Path) -> ModelCard | None:
    """The card in a safetensors file, or None where the file is somebody else's.

    Raises:
        UserError: the file or its card cannot be read.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
    if HEADER not in metadata:
        return None
    name = f"{path}: model card"
    return ModelCard.from_json(parse_json(metadata[HEADER], name), name)


def build_from_card(card: ModelCard, path: str | Path | None = None) -> DetectionTransformer:
    """The model that a card describes, with random weights.

    Args:
        card: checked here, since a card can come from anywhere.
        path: of the file whose tensors it must fit; shapes are compared before memory is taken.

    Raises:
        UserError: the family is not known to this version, its settings have changed, or the shapes differ.
    """
    name = f"{path}: model card" if path else f"the card of {card.variant}"
    if card.family not in FAMILIES:
        raise UserError(f"{name}: family '{card.family}' is not known; {nearest(card.family, FAMILIES)}")
    family = FAMILIES[card.family]
    config = config_of(family, card.config, source=f"{name}: config")
    if path is not None:
        with torch.device("meta"):  # shapes without memory
            outline = family.build(config, len(card.classes))
        if outline.scoring != card.scoring:
            raise UserError(f"{name}: scoring is '{card.scoring}', a {card.family} has '{outline.scoring}'")
        if problems := compare(_outline_of(path), outline.state_dict()):
            raise UserError(f"{path}: does not fit its card: {listed(problems)}")
    return family.build(config, len(card.classes))


def load_checkpoint(path: str | Path) -> tuple[DetectionTransformer, ModelCard]:
    """Model and card from one of our own files, strictly.

    Raises:
        UserError: not our checkpoint, or its tensors do not fit its card.
    """
    card = read_card(path)
    if card is None:
        raise UserError(f"{path}: has no model card; for foreign weights give a variant and --weights")
    model = build_from_card(card, path)
    model.load_state_dict(load_file(path))
    return model.eval(), card


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None


def _outline_of(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file without their content."""
    with _opened(path) as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118, it is no dict
        return {
            key: torch.empty(part.get_shape(), dtype=_kind(part.get_dtype()), device="meta")
            for key, part in slices.items()
        }


def _kind(dtype: str) -> torch.dtype:
    """Floating point or not, which is what a comparison asks; safetensors writes `F16`, `BF16`, `I64` ..."""
    return torch.float32 if dtype.startswith(("F", "BF")) else torch.int64
