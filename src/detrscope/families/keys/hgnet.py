"""Keys of HGNetV2: timm's, which the authors of D-FINE and DEIMv2 share, and transformers'."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from detrscope.blocks.hgnet import HGNETS, Sizes
from detrscope.core.errors import UserError
from detrscope.families.keys.key_map import KeyLayout, Rule
from detrscope.families.keys.shapes import Shapes


def hgnet_rules(
    stem: str, stages: str, conv: str, norm: str, ours: str = "backbone.body."
) -> tuple[Rule, ...]:
    """Build the rules of the network.

    Args:
        stem: their prefix of the stem.
        stages: their prefix of the stages.
        conv: their name of a convolution.
        norm: their name of its norm.
        ours: our prefix.
    """
    inside = (
        (rf"\.{conv}\.weight", ".conv.weight"),
        (rf"\.{norm}\.(\w+)", r".norm.\2"),
        (r"\.lab\.scale", ".scale"),
        (r"\.lab\.bias", ".shift"),
    )
    paths = ((rf"{stem}(stem\d\w?)", rf"{ours}stem.\1"), (rf"{stages}((?:\w+\.)*\w+)", rf"{ours}stages.\1"))
    return tuple((path + their, mine + our) for path, mine in paths for their, our in inside)


CLASSIFIER = KeyLayout(
    "timm's HGNetV2",
    "stem.stem1.conv.weight",
    (*hgnet_rules(r"stem\.", r"stages\.", "conv", "bn", ours=""), (r"(?:head|last_conv|fc)\..*", "")),
)
"""Layout of files that hold the backbone alone, with its classifier or without."""


HGNET_WEIGHTS = {
    name: f"timm/{name}.ssld_stage1_in22k_in1k"
    for name in ("hgnetv2_b0", "hgnetv2_b2", "hgnetv2_b4", "hgnetv2_b5")
} | dict.fromkeys(("hgnetv2_atto", "hgnetv2_femto", "hgnetv2_pico"), "timm/hgnetv2_b0.ssld_stage1_in22k_in1k")
"""Repositories of ImageNet weights on the Hugging Face hub, from which the authors' trainings start, too."""


def hgnet_weights(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Rename the weights of a classifier; a network with fewer stages takes those that fit, as DEIMv2's do.

    Args:
        state: tensors under timm's names.
        expected: state dict of the network.

    Returns:
        The tensors by our names, and remarks on what was left out.
    """
    renamed = CLASSIFIER.rename(state, {})
    last = max(int(key.split(".")[1]) for key in expected if key.startswith("stages."))
    if f"stages.{last + 1}.downsample.conv.weight" not in renamed:
        return renamed, ()
    fitting = {key: x for key, x in renamed.items() if key in expected and x.shape == expected[key].shape}
    kept = {key: expected[key] for key in expected if key not in fitting}
    return {**fitting, **kept}, (
        f"{len(renamed) - len(fitting)} tensors of a larger network left out, {len(kept)} keep random weights",
    )


def hgnet_name(shapes: Shapes, prefix: str = "backbone.body") -> str:
    """Return the name of the network under `prefix`.

    Raises:
        UserError: it is none of those that are known.
    """
    stages = shapes.count(f"{prefix}.stages")
    found = (
        shapes.size(f"{prefix}.stem.stem1.conv.weight", 0),
        tuple(
            (
                shapes.count(f"{prefix}.stages.{stage}.blocks"),
                shapes.count(f"{prefix}.stages.{stage}.blocks.0.layers"),
                shapes.size(f"{prefix}.stages.{stage}.blocks.0.aggregation.1.conv.weight", 0),
            )
            for stage in range(stages)
        ),
    )
    for name, sizes in HGNETS.items():
        if _signature(sizes) == found:
            return name
    raise UserError(f"the checkpoint's backbone is none of {', '.join(HGNETS)} (stem, stages: {found})")


def _signature(sizes: Sizes) -> tuple[int, tuple[tuple[int, int, int], ...]]:
    """Return channels of the stem; blocks, layers in a block and channels of each stage."""
    return sizes.stem[0], tuple((stage.blocks, stage.layers, stage.width) for stage in sizes.stages)
