"""Key layouts of DEIMv2's checkpoints: the authors' (as on the hub), and that of transformers' own model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from detrscope.families.keys.d_fine import (
    AUTHORS_FUSION,
    DistributionConfig,
    direct_sampling,
    finalize_distributions,
    head_rules,
)
from detrscope.families.keys.hgnet import hgnet_rules
from detrscope.families.keys.hugging_face import HF_REST, hf_attention
from detrscope.families.keys.key_map import KeyLayout, Rule, layer_rules
from detrscope.families.keys.rt_detr import projection_rules, proposal_rules
from detrscope.families.keys.torch_transformer import TORCH_FEEDFORWARD, torch_attention

BOX_HEAD = "heads.box_heads."


class Deimv2HubConfig(DistributionConfig):
    """Keys of the config of transformers' DEIMv2, which is not quite the authors' model."""

    encoder_type: Literal["hybrid", "lite"] = "hybrid"
    encoder_fuse_op: Literal["sum"] = "sum"
    encoder_has_trailing_conv: Literal[True] = True

    def attended_maps(self) -> list[int]:
        """Return the maps that self-attention must be given for; the small encoder has none, whatever is given."""
        return self.encode_proj_layers if self.encoder_type == "lite" else super().attended_maps()

    def settings(self) -> dict[str, Any]:
        """Translate the keys to our settings."""
        return super().settings() | {"activation": "relu", "positions": "each layer"}


def finalize(state: dict[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """Keep one box head where all layers share it: files have copies of it, or the one of some layer."""
    state = finalize_distributions(state, settings)
    heads: dict[str, dict[str, Tensor]] = {}
    for key in state:
        if key.startswith(BOX_HEAD):
            number, _, rest = key.removeprefix(BOX_HEAD).partition(".")
            heads.setdefault(number, {})[rest] = state[key]
    first = next(iter(heads.values()), {})
    if all(
        head.keys() == first.keys() and all(map(torch.equal, head.values(), first.values()))
        for head in heads.values()
    ):
        state = {key: tensor for key, tensor in state.items() if not key.startswith(BOX_HEAD)}
        state |= {f"{BOX_HEAD}0.{rest}": tensor for rest, tensor in first.items()}
    return state


def _lite(theirs: str, names: Mapping[str, str]) -> tuple[Rule, ...]:
    """Build the rules of the blocks that fuse two maps from the names inside a block."""
    blocks = {"fpn_block": "down_blocks.0", "pan_block": "up_blocks.0"}
    return tuple(
        (rf"{theirs}\.{block}\.{name}\.(.*)", rf"encoder.fusion.{ours}.{our}.\1")
        for block, ours in blocks.items()
        for name, our in names.items()
    )


_HUB_BLOCK = {
    r"conv1": "first",
    r"csp_rep1\.conv2": "branches.0.1",
    r"csp_rep2\.conv2": "branches.1.1",
    r"csp_rep1": "branches.0.0",
    r"csp_rep2": "branches.1.0",
    r"conv2": "last",
}

LAYOUTS = (
    KeyLayout(
        "authors'",
        "decoder.decoder.layers.0.swish_ffn.w12.weight",
        (
            *hgnet_rules(r"backbone\.stem\.", r"backbone\.stages\.", "conv", "bn"),
            *projection_rules(r"encoder\.input_proj", "neck.projections"),
            (r"encoder\.down_sample1\.1\.(.*)", r"neck.coarser.conv.\1"),
            (r"encoder\.down_sample1\.2\.(.*)", r"neck.coarser.norm.\1"),
            (r"encoder\.down_sample2\.1\.(.*)", r"encoder.fusion.strided.0.1.conv.\1"),
            (r"encoder\.down_sample2\.2\.(.*)", r"encoder.fusion.strided.0.1.norm.\1"),
            (r"encoder\.bi_fusion\.cv\.(.*)", r"encoder.fusion.laterals.0.\1"),
            *_lite("encoder", {"cv1": "first", "cv2": "branches.0", "cv3": "branches.1", "cv4": "last"}),
            *layer_rules(
                "encoder", r"encoder\.encoder\.0", torch_attention("self_attn"), (),
                (
                    *TORCH_FEEDFORWARD,
                    (r"norm1\.(.*)", r"self_residual.norm.\2"),
                    (r"norm2\.(.*)", r"feedforward_residual.norm.\2"),
                ),
            ),
            *AUTHORS_FUSION,
            *proposal_rules(r"decoder\."),
            *layer_rules(
                "decoder", r"decoder\.decoder", torch_attention("self_attn"),
                direct_sampling("cross_attn"),
                (
                    (r"swish_ffn\.w12\.(.*)", r"feedforward.{gate|expand}.\2"),
                    (r"swish_ffn\.w3\.(.*)", r"feedforward.contract.\2"),
                    (r"norm1\.scale", "self_residual.norm.weight"),
                    (r"norm2\.scale", "cross_residual.norm.weight"),
                    (r"gateway\.norm\.scale", "cross_residual.norm.weight"),
                    (r"gateway\.gate\.(.*)", r"cross_residual.gate.\2"),
                    (r"norm3\.scale", "feedforward_residual.norm.weight"),
                ),
            ),
            *head_rules(
                r"decoder\.", r"decoder\.decoder\.", r"decoder\.dec_score_head", r"decoder\.dec_bbox_head"
            ),
            (r"decoder\.(?:anchors|valid_mask)", ""),
        ),
        finalize,
    ),
    KeyLayout(
        "transformers'",
        "model.decoder.layers.0.mlp.gate_proj.weight",
        (
            *hgnet_rules(
                r"model\.conv_encoder\.model\.embedder\.", r"model\.conv_encoder\.model\.encoder\.stages\.",
                "convolution", "normalization",
            ),
            (r"model\.conv_encoder\.encoder_input_proj\.(.*)", r"neck.projections.\1"),
            (r"model\.encoder\.input_proj\.(.*)", r"neck.projections.\1"),
            (r"model\.encoder\.down_conv1\.(.*)", r"neck.coarser.\1"),
            (r"model\.encoder\.down_conv2\.(.*)", r"encoder.fusion.strided.0.1.\1"),
            (r"model\.encoder\.bi_fusion_conv\.(.*)", r"encoder.fusion.laterals.0.\1"),
            *_lite(r"model\.encoder", _HUB_BLOCK),
            *(
                (rf"model\.encoder\.{theirs}\.(\d+)\.{name}\.(.*)", rf"encoder.fusion.{ours}.\1.{our}.\2")
                for theirs, ours in (("fpn_blocks", "down_blocks"), ("pan_blocks", "up_blocks"))
                for name, our in _HUB_BLOCK.items()
            ),
            (r"model\.encoder\.lateral_convs\.(\d+)\.(.*)", r"encoder.fusion.laterals.\1.\2"),
            (r"model\.encoder\.downsample_convs\.(\d+)\.conv1\.(.*)", r"encoder.fusion.strided.\1.0.\2"),
            (r"model\.encoder\.downsample_convs\.(\d+)\.conv2\.(.*)", r"encoder.fusion.strided.\1.1.\2"),
            *layer_rules(
                "encoder", r"model\.encoder\.aifi\.0", hf_attention("self_attn"), (),
                (
                    *HF_REST,
                    (r"mlp\.layers\.0\.(.*)", r"feedforward.expand.\2"),
                    (r"mlp\.layers\.1\.(.*)", r"feedforward.contract.\2"),
                ),
            ),
            *proposal_rules(r"model\."),
            *layer_rules(
                "decoder", r"model\.decoder", hf_attention("self_attn"),
                direct_sampling("encoder_attn"),
                (
                    *HF_REST,
                    (r"mlp\.gate_proj\.(.*)", r"feedforward.gate.\2"),
                    (r"mlp\.up_proj\.(.*)", r"feedforward.expand.\2"),
                    (r"mlp\.down_proj\.(.*)", r"feedforward.contract.\2"),
                    (r"encoder_attn_layer_norm\.(.*)", r"cross_residual.norm.\2"),
                    (r"gateway\.(.*)", r"cross_residual.\2"),
                ),
            ),
            *head_rules(
                r"model\.decoder\.", r"model\.decoder\.",
                r"(?:model\.decoder\.)?class_embed", r"(?:model\.decoder\.)?bbox_embed",
            ),
        ),
        finalize,
    ),
)  # fmt: skip
