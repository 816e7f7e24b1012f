"""Key layouts of RT-DETR's and RT-DETRv2's checkpoints: the authors' and Hugging Face's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from detrscope.families.keys.deformable_detr import sampling_rules
from detrscope.families.keys.hub_config import Heads, HubConfig
from detrscope.families.keys.hugging_face import HF_REST, hf_attention, hf_resnet_rules
from detrscope.families.keys.key_map import KeyLayout, Rule, layer_rules
from detrscope.families.keys.torch_transformer import TORCH_FEEDFORWARD, torch_attention


class HybridConfig(HubConfig):
    """Keys of configs with RT-DETR's encoder and decoder; what is fixed here is refused where it differs."""

    activation_function: Literal["silu"] = "silu"
    encoder_activation_function: Literal["gelu"] = "gelu"
    decoder_activation_function: Literal["relu"] = "relu"
    normalize_before: Literal[False] = False
    learn_initial_query: Literal[False] = False
    with_box_refine: Literal[True] = True
    positional_encoding_temperature: Literal[10000] = 10000
    eval_size: None = None
    encoder_attention_heads: Heads = 8
    decoder_attention_heads: Heads = 8
    num_queries: Heads = 300

    def settings(self) -> dict[str, Any]:
        """Translate the keys to our settings."""
        return {
            "queries": self.num_queries,
            "encoder": {"heads": self.encoder_attention_heads},
            "decoder": {"heads": self.decoder_attention_heads},
        }


class RTDetrHubConfig(HybridConfig):
    """Keys of RT-DETR's and RT-DETRv2's configs."""

    encode_proj_layers: Annotated[list[Literal[2]], Field(min_length=1, max_length=1)] = [2]  # noqa: RUF012
    num_feature_levels: Literal[3] = 3
    decoder_n_points: Heads = 4
    decoder_offset_scale: Annotated[float, Field(ge=0.5, le=0.5)] = 0.5
    decoder_method: Literal["default", "discrete"] = "default"

    def settings(self) -> dict[str, Any]:
        """Translate the keys to our settings."""
        settings = super().settings()
        settings["decoder"] |= {
            "points": (self.decoder_n_points,) * 3,
            "sampling": "discrete" if self.decoder_method == "discrete" else "bilinear",
        }
        return settings


LABELS = "queries.label_embedding.weight"


def finalize(state: dict[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """Drop the last row of the label embedding, which pads groups of denoising queries."""
    if LABELS in state and "queries.class_head.weight" in state:
        state[LABELS] = state[LABELS][: len(state["queries.class_head.weight"])]
    return state


def _fusion(theirs: str) -> tuple[Rule, ...]:
    """Build the rules of the convolutions that fuse maps, named the same in both layouts."""
    names = {
        "lateral_convs": "laterals",
        "fpn_blocks": "down_blocks",
        "downsample_convs": "strided",
        "pan_blocks": "up_blocks",
    }
    return tuple(
        (rf"{theirs}\.{name}\.(\d+)\.(.*)", rf"encoder.fusion.{ours}.\1.\2") for name, ours in names.items()
    )


def projection_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Build the rules of a convolution and a norm for each map: numbered 0 and 1, or named."""
    return (
        (rf"{theirs}\.(\d+)\.(?:0|conv)\.(.*)", rf"{ours}.\1.conv.\2"),
        (rf"{theirs}\.(\d+)\.(?:1|norm)\.(.*)", rf"{ours}.\1.norm.\2"),
    )


def proposal_rules(theirs: str) -> tuple[Rule, ...]:
    """Build the rules of what makes queries of tokens."""
    return (
        (rf"{theirs}denoising_class_embed\.weight", LABELS),
        (rf"{theirs}enc_output\.(?:0|proj)\.(.*)", r"queries.projection.\1"),
        (rf"{theirs}enc_output\.(?:1|norm)\.(.*)", r"queries.projection_norm.\1"),
        (rf"{theirs}enc_score_head\.(.*)", r"queries.class_head.\1"),
        (rf"{theirs}enc_bbox_head\.(.*)", r"queries.box_head.\1"),
    )


def _authors_resnet() -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for part, norm in (("conv", "conv"), ("norm", "bn")):
        rules.append((rf"backbone\.conv1\.conv1_(\d)\.{part}\.(.*)", rf"backbone.body.{norm}\1.\2"))
        for stage in range(4):
            theirs, ours = (
                rf"backbone\.res_layers\.{stage}\.blocks\.(\d+)\.",
                rf"backbone.body.layer{stage + 1}.\1.",
            )
            for number, letter in enumerate("abc", start=1):
                rules.append((rf"{theirs}branch2{letter}\.{part}\.(.*)", rf"{ours}{norm}{number}.\2"))
            index = 1 if part == "conv" else 2
            rules.append((rf"{theirs}short\.(?:conv\.)?{part}\.(.*)", rf"{ours}downsample.{index}.\2"))
    return tuple(rules)


_TORCH_NORMS: tuple[Rule, ...] = (
    (r"norm1\.(.*)", r"self_residual.norm.\2"),
    (r"norm2\.(.*)", r"feedforward_residual.norm.\2"),
)

_AUTHORS_RULES: tuple[Rule, ...] = (
        *_authors_resnet(),
        *projection_rules(r"encoder\.input_proj", "neck.projections"),
        *layer_rules(
            "encoder", r"encoder\.encoder\.0", torch_attention("self_attn"), (), (*TORCH_FEEDFORWARD, *_TORCH_NORMS)
        ),
        *_fusion("encoder"),
        *projection_rules(r"decoder\.input_proj", "encoder.outputs"),
        *proposal_rules(r"decoder\."),
        (r"decoder\.decoder\.layers\.\d+\.cross_attn\.num_points_scale", ""),
        *layer_rules(
            "decoder", r"decoder\.decoder", torch_attention("self_attn"), sampling_rules("cross_attn"),
            (
                *TORCH_FEEDFORWARD,
                (r"norm1\.(.*)", r"self_residual.norm.\2"),
                (r"norm2\.(.*)", r"cross_residual.norm.\2"),
                (r"norm3\.(.*)", r"feedforward_residual.norm.\2"),
            ),
        ),
        (r"decoder\.query_pos_head\.(.*)", r"decoder.position.\1"),
        (r"decoder\.dec_score_head\.(.*)", r"heads.class_heads.\1"),
        (r"decoder\.dec_bbox_head\.(.*)", r"heads.box_heads.\1"),
        (r"decoder\.(?:anchors|valid_mask)", ""),
        (r"encoder\.pos_embed\d+", ""),
)  # fmt: skip

_HUB_RULES: tuple[Rule, ...] = (
        *hf_resnet_rules(stem=3, shortcut=1),
        *projection_rules(r"model\.encoder_input_proj", "neck.projections"),
        *layer_rules("encoder", r"model\.encoder\.(?:aifi|encoder)\.0", hf_attention("self_attn"), (), HF_REST),
        *_fusion(r"model\.encoder"),
        *projection_rules(r"model\.decoder_input_proj", "encoder.outputs"),
        *proposal_rules(r"model\."),
        (r"model\.decoder\.layers\.\d+\.encoder_attn\.n_points_scale", ""),
        *layer_rules(
            "decoder", r"model\.decoder", hf_attention("self_attn"), sampling_rules("encoder_attn"),
            (*HF_REST, (r"encoder_attn_layer_norm\.(.*)", r"cross_residual.norm.\2")),
        ),
        (r"model\.decoder\.query_pos_head\.(.*)", r"decoder.position.\1"),
        (r"(?:model\.decoder\.)?class_embed\.(.*)", r"heads.class_heads.\1"),
        (r"(?:model\.decoder\.)?bbox_embed\.(.*)", r"heads.box_heads.\1"),
        (r"model\.(?:anchors|valid_mask)", ""),
)  # fmt: skip

LAYOUTS = (
    KeyLayout("authors' v2", "decoder.enc_output.proj.weight", _AUTHORS_RULES, finalize, release="rtdetrv2"),
    KeyLayout("authors' v1", "decoder.enc_score_head.weight", _AUTHORS_RULES, finalize, release="rtdetr"),
    KeyLayout(
        "Hugging Face v2",
        "model.decoder.layers.0.encoder_attn.n_points_scale",
        _HUB_RULES,
        finalize,
        release="rtdetrv2",
    ),
    KeyLayout("Hugging Face v1", "model.enc_score_head.weight", _HUB_RULES, finalize, release="rtdetr"),
)
