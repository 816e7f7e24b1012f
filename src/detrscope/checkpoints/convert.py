"""Convert third-party checkpoints to models, strictly; assumptions are logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from detrscope.checkpoints.native import Loaded, LoadReport
from detrscope.checkpoints.third_party import (
    ThirdPartyCheckpoint,
    recognise,
    third_party_classes,
    third_party_settings,
)
from detrscope.config import config_to_tree, merge_configs
from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.core.model_card import ModelCard
from detrscope.core.preprocessing import Preprocessing
from detrscope.families import VARIANTS, family_config, family_of
from detrscope.families.family import Family
from detrscope.families.keys.shapes import Shapes, compare_shapes, list_keys, some_keys


def convert_checkpoint(
    checkpoint: ThirdPartyCheckpoint, *, source: str, variant: str | None = None, published: bool = False
) -> Loaded:
    """Build the model of a third-party checkpoint and load its weights, strictly.

    Args:
        checkpoint: the checkpoint.
        source: its name in messages.
        variant: the expected variant; None infers family and settings from keys and shapes.
        published: whether it is the variant's released file, trained on COCO with DETR's preprocessing.

    Raises:
        UserError: unknown keys, or tensors that do not fit; lists every key that is missing, left over or of another
            shape.
    """
    family, layout, state = recognise(checkpoint, source, family_of(variant) if variant else None)
    try:
        tree = (
            config_to_tree(VARIANTS[variant].config)
            if variant
            else merge_configs(family.infer(Shapes(state)), third_party_settings(family, checkpoint))
        )
        count = family.classes(Shapes(state))
    except UserError as error:
        raise UserError(f"{source} ({layout.name} layout): {error}") from None
    config = family_config(family, tree, source=source)
    if count < 1:
        raise UserError(f"{source} ({layout.name} layout): the class head has no classes")
    with torch.device("meta"):  # shapes are compared before memory is allocated
        expected = family.build(config, count).state_dict()
    ignored = tuple(key for key in state if key.endswith("num_batches_tracked") and key not in expected)
    state = {key: tensor for key, tensor in state.items() if key not in ignored}
    if problems := compare_shapes(state, expected):
        raise UserError(f"{source} ({layout.name} layout): {len(problems)} problems: {list_keys(problems)}")
    if variant:
        _refuse_other_settings(tree, third_party_settings(family, checkpoint), source, variant)
    model = family.build(config, count)
    model.load_state_dict({**model.state_dict(), **state})
    classes, remarks, assumed = third_party_classes(checkpoint, count, coco=published)
    if assumed:
        for line in remarks:
            log.warning("%s: %s; pass other names as classes", source, line)
    name = variant or _variant_of(family, config, layout.release)
    usual = VARIANTS.get(name, family.variants[0]).preprocessing
    if not published:
        _warn_of_assumptions(checkpoint, source, variant, usual)
    if nonfinite := [key for key, tensor in state.items() if not tensor.isfinite().all()]:
        log.warning("%s: NaN or infinite numbers in %s", source, some_keys(nonfinite))
    card = ModelCard(
        family=family.name,
        variant=name,
        config=config_to_tree(config),
        classes=classes,
        preprocessing=checkpoint.preprocessing or usual,
        scoring=model.scoring,
        source=source,
        top=family.top_of(name),
    )
    notes = checkpoint.notes if assumed else (*checkpoint.notes, *remarks)
    return Loaded(model.eval(), card, LoadReport(source, len(state), skipped=checkpoint.skipped, notes=notes))


def _refuse_other_settings(
    tree: Mapping[str, Any], own: Mapping[str, Any], source: str, variant: str, prefix: str = ""
) -> None:
    """Refuse a file whose own settings are not the variant's; the number of heads, say, does not show in shapes.

    Raises:
        UserError: names the setting and both values.
    """
    for key, value in own.items():
        if isinstance(value, Mapping):
            _refuse_other_settings(tree[key], value, source, variant, f"{prefix}{key}.")
        elif tree.get(key) != value:
            raise UserError(
                f"{source}: {prefix}{key} is {value}, expected {tree.get(key)} of {variant}; load the file by its path,"
                " without a variant name"
            )


def _warn_of_assumptions(
    checkpoint: ThirdPartyCheckpoint, source: str, variant: str | None, usual: Preprocessing
) -> None:
    if checkpoint.preprocessing is None:
        log.warning("%s: has no preprocessing config; assumed: %s", source, usual.describe())
    if not checkpoint.settings and not variant:
        log.warning("%s: has no number of attention heads; assumed: 8 heads, no dilation", source)


def _variant_of(family: Family, config: Any, release: str) -> str:
    """Return the variant of a release with these settings, but for incidental ones, or else the family's name."""
    names = (
        v.name
        for v in family.variants
        if replace(config, **{name: getattr(v.config, name) for name in family.incidental}) == v.config
        and v.name.startswith(release)
    )
    return next((name for name in names if not release or name.startswith(f"{release}-")), family.name)
