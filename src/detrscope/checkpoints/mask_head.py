"""Give a detector a mask head, and tell whether a model has one without loading its weights."""

from __future__ import annotations

from dataclasses import replace

from detrscope.checkpoints.load import find_native_checkpoint, load_model
from detrscope.checkpoints.native import Loaded, build_checkpoint_model, read_checkpoint_card
from detrscope.config import build, config_to_tree
from detrscope.console import log
from detrscope.families import FAMILIES, VARIANTS
from detrscope.families.masks import MaskHeadName


def load_with_mask_head(loaded: Loaded, mask_head: MaskHeadName) -> Loaded:
    """Return the model with a mask head of random weights; all other weights stay. One that has a head keeps it.

    Raises:
        UserError: its family takes no such mask head.
    """
    if mask_head == "none":
        return loaded
    if loaded.card.has_masks:
        own = loaded.card.config["mask_head"]
        if own != mask_head:
            log.warning(
                "model.mask_head: the model keeps its own mask head, %s, in place of %s", own, mask_head
            )
        return loaded
    config = {**loaded.card.config, "mask_head": mask_head}
    family = FAMILIES[loaded.card.family]
    build(family.config, config, source=f"model.mask_head, for the family '{family.name}'")
    card = replace(loaded.card, config=config, metrics={}, thresholds=None)
    model = build_checkpoint_model(card)
    new, old = model.state_dict(), loaded.model.state_dict()
    added = tuple(key for key in new if key not in old)
    model.load_state_dict({**new, **old})
    reset = (*loaded.report.reset, *added)
    return Loaded(model.eval(), card, replace(loaded.report, loaded=len(old), reset=reset))


def predicts_masks(name: str) -> bool:
    """Return whether a model that `load_model` takes has a mask head; loads it only where no card says so."""
    if name in VARIANTS:
        return bool(config_to_tree(VARIANTS[name].config).get("mask_head", "none") != "none")
    file = find_native_checkpoint(name)
    card = None if file is None else read_checkpoint_card(file)
    return (load_model(name).card if card is None else card).has_masks
