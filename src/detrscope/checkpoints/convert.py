"""Somebody else's checkpoint becomes a model of ours, strictly; what it does not tell is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from detrscope.checkpoints.loaded import Loaded, LoadReport
from detrscope.checkpoints.third_party import (
    ThirdPartyCheckpoint,
    classes_of,
    inferred_settings,
    known_settings,
    recognise,
)
from detrscope.config import to_tree
from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.core.model_card import ModelCard
from detrscope.core.preprocessing import Preprocessing
from detrscope.families import VARIANTS, config_of, family_of
from detrscope.families.family import Family
from detrscope.families.keys.shapes import Shapes, compare, listed, some


def convert_checkpoint(
    foreign: ThirdPartyCheckpoint, *, source: str, variant: str | None = None, published: bool = False
) -> Loaded:
    """A model of ours with the weights of a foreign checkpoint, strictly.

    Args:
        foreign: the checkpoint.
        source: what to call it.
        variant: which model it must be; None: told by its keys and shapes.
        published: whether it is the variant's released file, trained on COCO with DETR's preprocessing.

    Raises:
        UserError: not a model known here, or one that does not fit; every key that is missing, left over or of
            another shape is listed.
    """
    only = family_of(variant) if variant else None
    family, layout, state = recognise(foreign, source, only)
    try:
        tree = to_tree(VARIANTS[variant].config) if variant else inferred_settings(family, state, foreign)
        count = family.classes(Shapes(state))
    except UserError as error:
        raise UserError(f"{source} ({layout.name} layout): {error}") from None
    config = config_of(family, tree, source=source)
    if count < 1:
        raise UserError(f"{source} ({layout.name} layout): its class head has no class")
    with torch.device("meta"):  # shapes are compared before memory is taken
        wanted = family.build(config, count).state_dict()
    ignored = tuple(key for key in state if key.endswith("num_batches_tracked") and key not in wanted)
    state = {key: tensor for key, tensor in state.items() if key not in ignored}
    if problems := compare(state, wanted):
        raise UserError(f"{source} ({layout.name} layout): {len(problems)} problems: {listed(problems)}")
    if variant:
        _refuse_other_settings(tree, known_settings(family, foreign), source, variant)
    model = family.build(config, count)
    model.load_state_dict({**model.state_dict(), **state})
    classes, said, assumed = classes_of(foreign, count, coco=published)
    _warn_of_assumptions(foreign, source, said if assumed else (), named=bool(variant), published=published)
    if broken := [key for key, tensor in state.items() if not tensor.isfinite().all()]:
        log.warning("%s: NaN or infinite numbers in %s", source, some(broken))
    card = ModelCard(
        family=family.name,
        variant=variant or _nearest_variant(family, config),
        config=to_tree(config),
        classes=classes,
        preprocessing=foreign.preprocessing or Preprocessing(),
        scoring=model.scoring,
        source=source,
    )
    notes = foreign.notes if assumed else (*foreign.notes, *said)
    return Loaded(model.eval(), card, LoadReport(source, len(state), skipped=foreign.skipped, notes=notes))


def _refuse_other_settings(
    tree: Mapping[str, Any], found: Mapping[str, Any], source: str, variant: str, prefix: str = ""
) -> None:
    """Refuse a file that says of itself what the variant is not: heads, for one, do not show in shapes.

    Raises:
        UserError: the setting and both values.
    """
    for key, value in found.items():
        if isinstance(value, Mapping):
            _refuse_other_settings(tree[key], value, source, variant, f"{prefix}{key}.")
        elif tree.get(key) != value:
            raise UserError(
                f"{source}: {prefix}{key} is {value} there, {variant} has {tree.get(key)}; load the file"
                " itself, without the name of a variant"
            )


def _warn_of_assumptions(
    foreign: ThirdPartyCheckpoint, source: str, classes: tuple[str, ...], *, named: bool, published: bool
) -> None:
    """Say what is taken for granted because the checkpoint does not tell."""
    for line in classes:
        log.warning("%s: %s; give other names with classes=", source, line)
    if published:
        return
    if foreign.preprocessing is None:
        usual = Preprocessing()
        log.warning(
            "%s: does not say how images are prepared: sides of %d to %d pixels, ImageNet's mean and deviation are"
            " assumed",
            source,
            usual.short_side,
            usual.long_side,
        )
    if not foreign.settings and not named:
        log.warning(
            "%s: does not say how many attention heads it has: 8 are assumed, and no dilation", source
        )


def _nearest_variant(family: Family, config: Any) -> str:
    """The variant with exactly these settings, or the family's name where there is none."""
    return next((v.name for v in family.variants if v.config == config), family.name)
