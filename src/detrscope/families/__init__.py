"""Families of detection transformers, one file each; `FAMILIES` is the one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detrscope.blocks.path import DetectionTransformer
from detrscope.config import build as build_config
from detrscope.config import config_to_tree, merge_configs
from detrscope.core.errors import UserError, suggest_nearest
from detrscope.families import (
    d_fine,
    deformable_detr,
    deimv2,
    detr,
    lw_detr,
    minimal,
    rf_detr,
    rt_detr,
    sprint,
    sprint_lite,
)
from detrscope.families.family import Family, Variant

FAMILIES: dict[str, Family] = {
    f.name: f
    # Checkpoints are recognised in this order: DEIMv2's and D-FINE's have marks of those behind them.
    for f in (
        minimal.FAMILY,
        detr.FAMILY,
        deformable_detr.FAMILY,
        deimv2.FAMILY,
        d_fine.FAMILY,
        rt_detr.FAMILY,
        lw_detr.FAMILY,
        rf_detr.FAMILY,
        sprint.FAMILY,
        sprint_lite.FAMILY,
    )
}
VARIANTS: dict[str, Variant] = {v.name: v for f in FAMILIES.values() for v in f.variants}


def family_of(variant: str) -> Family:
    """Return the family of a variant.

    Raises:
        UserError: no variant of that name; suggests the nearest.
    """
    for family in FAMILIES.values():
        if any(v.name == variant for v in family.variants):
            return family
    raise UserError(f"model '{variant}' is not known; {suggest_nearest(variant, VARIANTS)}")


def resolve_variant(variant: str, overrides: Mapping[str, Any], *, source: str = "model") -> Any:
    """Return the config of a variant with some settings overridden.

    Args:
        variant: a name of `VARIANTS`.
        overrides: nested settings such as `{"decoder": {"layers": 3}}`.
        source: name of the overrides in errors.

    Raises:
        UserError: unknown variant or setting, or a value of the wrong type.
    """
    family = family_of(variant)
    return build_config(
        family.config, merge_configs(config_to_tree(VARIANTS[variant].config), overrides), source=source
    )


def family_config(family: Family, tree: Mapping[str, Any], *, source: str) -> Any:
    """Return a family's config read from a file.

    Args:
        family: the family.
        tree: nested settings; absent ones keep the family's default.
        source: name of the file in errors.

    Raises:
        UserError: an unknown setting, or a value of the wrong type or out of range; names the file.
    """
    return build_config(family.config, tree, source=source)


def build(variant: str, overrides: Mapping[str, Any], classes: int) -> DetectionTransformer:
    """Build a variant with random weights.

    Raises:
        UserError: unknown variant or setting.
    """
    return family_of(variant).build(resolve_variant(variant, overrides), classes)


def family_query_count(variant: str, overrides: Mapping[str, Any]) -> int:
    """Return the number of queries, the most objects a model can detect in an image."""
    return int(getattr(resolve_variant(variant, overrides), family_of(variant).query_count))
