"""Native checkpoints: one safetensors file whose header holds the model card; the result of loading."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from detrscope.blocks.path import DetectionTransformer
from detrscope.core.errors import UserError, suggest_nearest
from detrscope.core.files import atomic_write
from detrscope.core.model_card import ModelCard
from detrscope.core.text_files import parse_json
from detrscope.families import FAMILIES, family_config
from detrscope.families.keys.shapes import compare_shapes, list_keys

HEADER = "detrscope"


@dataclass(frozen=True)
class LoadReport:
    """Report on the tensors loaded from a checkpoint.

    Attributes:
        source: the checkpoint.
        loaded: number of tensors loaded.
        reset: the model's tensors that are left random.
        skipped: the file's entries that are not used.
        notes: remarks such as a prefix removed from the keys.
    """

    source: str
    loaded: int
    reset: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return the report as lines for the log."""
        notes = "".join(f"; {note}" for note in self.notes)
        lines = [f"{self.source}: loaded {self.loaded} tensors{notes}"]
        if self.reset:
            lines.append(f"reset to random weights: {', '.join(self.reset)}")
        if self.skipped:
            lines.append(f"skipped: {', '.join(self.skipped)}")
        return lines


@dataclass(frozen=True)
class Loaded:
    """A model ready for use, on the CPU, in evaluation mode."""

    model: DetectionTransformer
    card: ModelCard
    report: LoadReport


def save_checkpoint(path: str | Path, model: nn.Module, card: ModelCard) -> None:
    """Write weights and card to one file, atomically."""
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(state, temporary, metadata={HEADER: json.dumps(card.to_json()), "format": "pt"})


def replace_checkpoint_card(path: str | Path, card: ModelCard) -> None:
    """Give a native checkpoint another card, atomically; its tensors and other entries stay bit for bit.

    Raises:
        UserError: the file cannot be read.
    """
    with _open(path) as file:
        metadata = file.metadata() or {}
    state = load_file(path)
    with atomic_write(path) as temporary:
        save_file(state, temporary, metadata={**metadata, HEADER: json.dumps(card.to_json())})


def read_checkpoint_card(path: str | Path) -> ModelCard | None:
    """Return the card of a safetensors file, or None where it has none.

    Raises:
        UserError: the file or its card cannot be read.
    """
    with _open(path) as file:
        metadata = file.metadata() or {}
    if HEADER not in metadata:
        return None
    name = f"{path}: model card"
    return ModelCard.from_json(parse_json(metadata[HEADER], name), name)


def build_checkpoint_model(card: ModelCard, path: str | Path | None = None) -> DetectionTransformer:
    """Build the model that a card describes, with random weights.

    Args:
        card: the card, validated here.
        path: file whose tensors must fit; shapes are compared before memory is allocated.

    Raises:
        UserError: unknown family, invalid settings, or tensors that do not fit.
    """
    name = f"{path}: model card" if path else f"the card of {card.variant}"
    if card.family not in FAMILIES:
        raise UserError(
            f"{name}: family '{card.family}' is not known; {suggest_nearest(card.family, FAMILIES)}"
        )
    family = FAMILIES[card.family]
    config = family_config(family, card.config, source=f"{name}: config")
    if path is not None:
        with torch.device("meta"):  # shapes without memory
            meta_model = family.build(config, len(card.classes))
        if meta_model.scoring != card.scoring:
            raise UserError(
                f"{name}: scoring is '{card.scoring}', expected '{meta_model.scoring}' of {card.family}"
            )
        if problems := compare_shapes(_meta_tensors(path), meta_model.state_dict()):
            raise UserError(f"{path}: does not fit its card: {list_keys(problems)}")
    return family.build(config, len(card.classes))


def load_checkpoint(path: str | Path) -> tuple[DetectionTransformer, ModelCard]:
    """Load model and card from a native checkpoint, strictly.

    Raises:
        UserError: not a native checkpoint, or its tensors do not fit its card.
    """
    card = read_checkpoint_card(path)
    if card is None:
        raise UserError(
            f"{path}: has no model card; for third-party weights pass a variant and the file as weights"
        )
    model = build_checkpoint_model(card, path)
    model.load_state_dict(load_file(path))
    return model.eval(), card


@contextmanager
def _open(path: str | Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None


def _meta_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a file on the meta device."""
    with _open(path) as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118, not a dict
        return {
            key: torch.empty(part.get_shape(), dtype=_number_kind(part.get_dtype()), device="meta")
            for key, part in slices.items()
        }


def _number_kind(dtype: str) -> torch.dtype:
    """Return float32 for floating-point types and int64 for others; safetensors writes `F16`, `BF16`, `I64` ..."""
    return torch.float32 if dtype.startswith(("F", "BF")) else torch.int64
