"""Key layouts of Deformable DETR's checkpoints: the authors' and Hugging Face's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detrscope.families.keys.hugging_face import HF_BACKBONES, HF_REST, hf_attention
from detrscope.families.keys.key_map import KeyLayout, Rule, layer_rules
from detrscope.families.keys.shapes import Shapes
from detrscope.families.keys.torch_transformer import TORCH_FEEDFORWARD, torch_attention

HEAD = re.compile(r"heads\.(class|box)_heads\.(\d+)\.(.*)")


def finalize_head_keys(state: dict[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """Assign the numbered heads of a checkpoint to the model's.

    Files number a class and a box head for every decoder layer. Without refinement these are copies of one, and the
    model has one. With refinement each layer has its own, though a file may omit copies. In two-stage checkpoints one
    more, the last, belongs to the proposals.
    """
    copies: dict[tuple[str, str], dict[int, Tensor]] = {}
    renamed = {}
    for key, tensor in state.items():
        if match := HEAD.fullmatch(key):
            copies.setdefault((match[1], match[3]), {})[int(match[2])] = tensor
        else:
            renamed[key] = tensor
    layers = Shapes(state).count("decoder.layers")
    two_stage = "queries.projection.weight" in state
    if not two_stage and settings.get("references") != "refined" and all(map(_identical, copies.values())):
        return renamed | {f"heads.{kind}_head.{rest}": of[min(of)] for (kind, rest), of in copies.items()}
    for (kind, rest), of in copies.items():
        if len(of) == 1:
            of = dict.fromkeys(range(layers + two_stage), *of.values())
        for number, tensor in of.items():
            of_proposals = two_stage and number == layers
            key = f"queries.{kind}_head" if of_proposals else f"heads.{kind}_heads.{number}"
            renamed[f"{key}.{rest}"] = tensor
    return renamed


def _identical(copies: Mapping[int, Tensor]) -> bool:
    first = copies[min(copies)]
    return all(torch.equal(first, other) for other in copies.values())


def sampling_rules(name: str) -> tuple[Rule, ...]:
    """Build the rules of deformable attention, named the same in both layouts."""
    return (
        (rf"{name}\.value_proj\.(.*)", r"value.\2"),
        (rf"{name}\.sampling_offsets\.(.*)", r"offsets.\2"),
        (rf"{name}\.attention_weights\.(.*)", r"weights.\2"),
        (rf"{name}\.output_proj\.(.*)", r"output.\2"),
    )


def _common(transformer: str) -> tuple[Rule, ...]:
    """Build the rules that both layouts share but for the prefix of the transformer."""
    return (
        (rf"{transformer}level_embed", r"neck.level"),
        (rf"{transformer}reference_points\.(.*)", r"queries.points.\1"),
        (rf"{transformer}enc_output\.(.*)", r"queries.projection.\1"),
        (rf"{transformer}enc_output_norm\.(.*)", r"queries.projection_norm.\1"),
        (rf"{transformer}pos_trans\.(.*)", r"queries.box_projection.\1"),
        (rf"{transformer}pos_trans_norm\.(.*)", r"queries.box_projection_norm.\1"),
        (rf"(?:{transformer}decoder\.)?class_embed\.(\d+)\.(.*)", r"heads.class_heads.\1.\2"),
        (rf"(?:{transformer}decoder\.)?bbox_embed\.(\d+)\.(.*)", r"heads.box_heads.\1.\2"),
    )


PUBLISHED = KeyLayout(
    name="published",
    mark="transformer.level_embed",
    rules=(
        (r"backbone\.0\.body\.(.*)", r"backbone.body.\1"),
        (r"input_proj\.(\d+)\.0\.(.*)", r"neck.projections.\1.\2"),
        (r"input_proj\.(\d+)\.1\.(.*)", r"neck.norms.\1.\2"),
        (r"query_embed\.weight", r"queries.embedding.weight"),
        *_common(r"transformer\."),
        *layer_rules(
            "encoder", r"transformer\.encoder", sampling_rules("self_attn"), (),
            (
                *TORCH_FEEDFORWARD,
                (r"norm1\.(.*)", r"self_residual.norm.\2"),
                (r"norm2\.(.*)", r"feedforward_residual.norm.\2"),
            ),
        ),
        *layer_rules(
            "decoder", r"transformer\.decoder", torch_attention("self_attn"), sampling_rules("cross_attn"),
            (
                *TORCH_FEEDFORWARD,
                (r"norm1\.(.*)", r"cross_residual.norm.\2"),
                (r"norm2\.(.*)", r"self_residual.norm.\2"),
                (r"norm3\.(.*)", r"feedforward_residual.norm.\2"),
            ),
        ),
    ),
    finalize=finalize_head_keys,
)  # fmt: skip

HUGGING_FACE = KeyLayout(
    name="Hugging Face",
    mark="model.level_embed",
    rules=(
        *HF_BACKBONES,
        (r"model\.input_proj\.(\d+)\.0\.(.*)", r"neck.projections.\1.\2"),
        (r"model\.input_proj\.(\d+)\.1\.(.*)", r"neck.norms.\1.\2"),
        (r"model\.query_position_embeddings\.weight", r"queries.embedding.weight"),
        *_common(r"model\."),
        *layer_rules("encoder", r"model\.encoder", sampling_rules("self_attn"), (), HF_REST),
        *layer_rules(
            "decoder", r"model\.decoder", hf_attention("self_attn"), sampling_rules("encoder_attn"),
            (*HF_REST, (r"encoder_attn_layer_norm\.(.*)", r"cross_residual.norm.\2")),
        ),
    ),
    finalize=finalize_head_keys,
)  # fmt: skip
