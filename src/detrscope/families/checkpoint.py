"""Our checkpoint: one safetensors file whose header holds the model card."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from detrscope.blocks.path import DetectionTransformer
from detrscope.config import build as build_config
from detrscope.console import written_whole
from detrscope.core.card import ModelCard
from detrscope.core.errors import UserError, nearest
from detrscope.families import FAMILIES
from detrscope.families.layouts import compare

HEADER = "detrscope"


def save_checkpoint(path: str | Path, model: nn.Module, card: ModelCard) -> None:
    """Weights and card to one file, whole or not at all."""
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    with written_whole(path) as temporary:
        save_file(state, temporary, metadata={HEADER: json.dumps(card.to_json()), "format": "pt"})


def read_card(path: str | Path) -> ModelCard | None:
    """The card in a safetensors file, or None where the file is somebody else's.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    return ModelCard.from_json(json.loads(metadata[HEADER])) if HEADER in metadata else None


def build_from_card(card: ModelCard) -> DetectionTransformer:
    """The model that a card describes, with random weights.

    Raises:
        UserError: the family is not known to this version, or its settings have changed.
    """
    if card.family not in FAMILIES:
        raise UserError(f"model family '{card.family}' is not known; {nearest(card.family, FAMILIES)}")
    family = FAMILIES[card.family]
    config = build_config(family.config, card.config, source=f"the card of {card.variant}")
    return family.build(config, len(card.classes))


def load_checkpoint(path: str | Path) -> tuple[DetectionTransformer, ModelCard]:
    """Model and card from one of our own files, strictly.

    Raises:
        UserError: not our checkpoint, or its tensors do not fit its card.
    """
    card = read_card(path)
    if card is None:
        raise UserError(f"{path}: has no model card; for foreign weights give a variant and --weights")
    model = build_from_card(card)
    state = load_file(path)
    if problems := compare(state, model.state_dict()):
        raise UserError(f"{path}: does not fit its card: {'; '.join(problems)}")
    model.load_state_dict(state)
    return model.eval(), card
