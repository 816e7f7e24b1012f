"""Key layouts of LW-DETR's checkpoints: the authors' and Hugging Face's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from detrscope.core.errors import UserError
from detrscope.families.keys.deformable_detr import sampling_rules
from detrscope.families.keys.hub_config import Heads, HubConfig, Partial
from detrscope.families.keys.hugging_face import HF_REST, hf_attention
from detrscope.families.keys.key_map import KeyLayout, Rule, layer_rules
from detrscope.families.keys.torch_transformer import TORCH_FEEDFORWARD, torch_attention

POSITION = "backbone.position"


def published_layers(layers: int) -> dict[str, tuple[int, ...]]:
    """Return the layers within windows and those whose tokens are used, of the released backbones of a depth."""
    if layers == 6:
        return {"window_layers": (0, 2, 4), "maps": (1, 3, 5)}
    return {"window_layers": (0, 1, 3, 6, 7, 9), "maps": (2, 4, 5, 9)}


class ViTFields(Partial):
    """Keys of the backbone's own config."""

    model_type: Literal["lw_detr_vit"] = "lw_detr_vit"
    hidden_act: Literal["gelu"] = "gelu"
    num_attention_heads: Heads = 12
    patch_size: Literal[16] = 16
    mlp_ratio: Literal[4] = 4
    qkv_bias: Literal[True] = True
    use_absolute_position_embeddings: Literal[True] = True
    layer_norm_eps: Annotated[float, Field(ge=1e-6, le=1e-6)] = 1e-6
    num_windows: Heads = 16
    window_block_indices: list[Annotated[int, Field(ge=0)]] = []  # noqa: RUF012
    out_indices: list[Annotated[int, Field(ge=1)]] | None = None


class GroupHubConfig(HubConfig):
    """Keys of configs with LW-DETR's projector and decoder; what is fixed here is refused where it differs."""

    activation_function: Literal["silu"] = "silu"
    decoder_activation_function: Literal["relu"] = "relu"
    attention_bias: Literal[True] = True
    hidden_expansion: Annotated[float, Field(ge=0.5, le=0.5)] = 0.5
    c2f_num_blocks: Literal[3] = 3
    decoder_self_attention_heads: Heads = 8
    decoder_cross_attention_heads: Heads = 16
    decoder_n_points: Heads = 4
    group_detr: Heads = 13
    num_queries: Heads = 300

    def settings(self) -> dict[str, Any]:
        """Translate the keys to our settings."""
        return {
            "queries": self.num_queries,
            "groups": self.group_detr,
            "decoder": {
                "heads": self.decoder_self_attention_heads,
                "cross_heads": self.decoder_cross_attention_heads,
                "points": self.decoder_n_points,
            },
        }


class LWDetrHubConfig(GroupHubConfig):
    """Keys of LW-DETR's configs."""

    batch_norm_eps: Annotated[float, Field(ge=1e-5, le=1e-5)] = 1e-5
    backbone_config: ViTFields

    def settings(self) -> dict[str, Any]:
        """Translate the keys to our settings."""
        vit = self.backbone_config
        backbone: dict[str, Any] = {
            "heads": vit.num_attention_heads,
            "windows": math.isqrt(vit.num_windows),
            "window_layers": tuple(vit.window_block_indices),
        }
        if vit.out_indices is not None:
            backbone["maps"] = tuple(
                index - 1 for index in vit.out_indices
            )  # theirs counts the embedding as 0
        return {**super().settings(), "backbone": backbone}


def finalize(state: dict[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """Turn positions [1, 1 + S, D] into a map [D, H, W]; the first is of a class token, which the model has not."""
    if POSITION in state:
        position = state[POSITION]
        side = math.isqrt(max(0, position.shape[1] - 1)) if position.dim() == 3 else 0
        if side == 0 or side * side != position.shape[1] - 1:
            raise UserError(f"positions {list(position.shape)}: expected [1, 1 + a square number, width]")
        state[POSITION] = position[0, 1:].T.reshape(-1, side, side).contiguous()
    return state


def projector_rules(theirs: str) -> tuple[Rule, ...]:
    """Build the rules of the projector in the authors' names."""
    scale, resize = rf"{theirs}\.stages\.(\d+)\.", rf"{theirs}\.stages_sampling\.(\d+)\.(\d+)\.(\d+)\."
    rules: list[Rule] = [(rf"{scale}1\.(.*)", r"neck.scales.\1.norm.\2")]
    for part, ours in (("conv", "conv"), ("bn", "norm")):
        for number in (1, 2):
            fuse = rf"neck.scales.\1.fuse.conv{number}.{ours}.\2"
            bottleneck = rf"neck.scales.\1.fuse.bottlenecks.\2.{number - 1}.{ours}.\3"
            rules.append((rf"{scale}0\.cv{number}\.{part}\.(.*)", fuse))
            rules.append((rf"{scale}0\.m\.(\d+)\.cv{number}\.{part}\.(.*)", bottleneck))
        rules.append((rf"{resize}{part}\.(.*)", rf"neck.scales.\1.resize.\2.\3.{ours}.\4"))
    rules.append((rf"{resize}(weight|bias)", r"neck.scales.\1.resize.\2.\3.\4"))
    return tuple(rules)


def decoder_rules(prefix: str, hub: bool) -> tuple[Rule, ...]:
    """Build the rules of queries, decoder and heads; only the layers of the decoder have other names in both layouts.

    Args:
        prefix: of the decoder and of what makes proposals, a pattern.
        hub: whether layers are named as Hugging Face does.
    """
    if hub:
        rest = (
            *HF_REST,
            (r"cross_attn_layer_norm\.(.*)", r"cross_residual.norm.\2"),
            (r"layer_norm\.(.*)", r"feedforward_residual.norm.\2"),
        )
    else:
        names = ("self_residual", "cross_residual", "feedforward_residual")
        norms = ((rf"norm{i}\.(.*)", rf"{name}.norm.\2") for i, name in enumerate(names, start=1))
        rest = (*TORCH_FEEDFORWARD, *norms)
    self_attention = hf_attention("self_attn") if hub else torch_attention("self_attn")
    return (
        *layer_rules("decoder", rf"{prefix}decoder", self_attention, sampling_rules("cross_attn"), rest),
        (rf"{prefix}decoder\.(?:layer)?norm\.(.*)", r"decoder.norm.\1"),
        (rf"{prefix}decoder\.ref_point_head\.(.*)", r"decoder.position.\1"),
        (rf"{prefix}enc_output\.(\d+)\.(.*)", r"queries.groups.\1.projection.\2"),
        (rf"{prefix}enc_output_norm\.(\d+)\.(.*)", r"queries.groups.\1.projection_norm.\2"),
        (rf"{prefix}enc_out_class_embed\.(\d+)\.(.*)", r"queries.groups.\1.class_head.\2"),
        (rf"{prefix}enc_out_bbox_embed\.(\d+)\.(.*)", r"queries.groups.\1.box_head.\2"),
        (r"(?:model\.reference_point|refpoint)_embed\.weight", "queries.offset"),
        (r"(?:model\.)?query_feat\.weight", "queries.content"),
        (r"class_embed\.(.*)", r"heads.class_head.\1"),
        (r"bbox_embed\.(.*)", r"heads.box_head.\1"),
    )


_LAYER_REST: tuple[Rule, ...] = (
    (r"gamma_1", "self_residual.factor"),
    (r"gamma_2", "feedforward_residual.factor"),
    (r"(?:norm1|layernorm_before)\.(.*)", r"self_residual.norm.\2"),
    (r"(?:norm2|layernorm_after)\.(.*)", r"feedforward_residual.norm.\2"),
    (r"(?:mlp|intermediate)\.fc1\.(.*)", r"feedforward.expand.\2"),
    (r"(?:mlp|intermediate)\.fc2\.(.*)", r"feedforward.contract.\2"),
    (r"attn\.qkv\.weight", r"self_attention.{query|key|value}.weight"),
    (r"attn\.q_bias", "self_attention.query.bias"),
    (r"attn\.v_bias", "self_attention.value.bias"),
    (r"attn\.proj\.(.*)", r"self_attention.output.\2"),
    (r"attention\.attention\.(query|key|value)\.(.*)", r"self_attention.\2.\3"),
    (r"attention\.output\.(.*)", r"self_attention.output.\2"),
    *((pattern, f"self_attention.{ours}") for pattern, ours in hf_attention("attention")),
)


def _backbone(theirs: str, layers: str) -> tuple[Rule, ...]:
    return (
        (rf"{theirs}\.(?:embeddings\.position_embeddings|pos_embed)", POSITION),
        (rf"{theirs}\.(?:embeddings\.projection|patch_embed\.proj)\.(.*)", r"backbone.embedding.\1"),
        *(
            (rf"{theirs}\.{layers}\.(\d+)\.{pattern}", rf"backbone.layers.\1.{ours}")
            for pattern, ours in _LAYER_REST
        ),
    )


_HUB_SCALE = r"model\.backbone\.projector\.scale_layers\.(\d+)\."
HUB_PROJECTOR: tuple[Rule, ...] = (
    (_HUB_SCALE + r"sampling_layers\.(\d+)\.layers\.(.*)", r"neck.scales.\1.resize.\2.\3"),
    (
        _HUB_SCALE + r"projector_layer\.bottlenecks\.(\d+)\.conv1\.(.*)",
        r"neck.scales.\1.fuse.bottlenecks.\2.0.\3",
    ),
    (
        _HUB_SCALE + r"projector_layer\.bottlenecks\.(\d+)\.conv2\.(.*)",
        r"neck.scales.\1.fuse.bottlenecks.\2.1.\3",
    ),
    (_HUB_SCALE + r"projector_layer\.(.*)", r"neck.scales.\1.fuse.\2"),
    (_HUB_SCALE + r"layer_norm\.(.*)", r"neck.scales.\1.norm.\2"),
)

LAYOUTS = (
    KeyLayout(
        "authors'",
        "backbone.0.encoder.pos_embed",
        (
            *_backbone(r"backbone\.0\.encoder", "blocks"),
            *projector_rules(r"backbone\.0\.projector"),
            *decoder_rules(r"transformer\.", hub=False),
        ),
        finalize,
    ),
    KeyLayout(
        "Hugging Face",
        "model.backbone.backbone.encoder.layer.0.gamma_1",
        (
            *_backbone(r"model\.backbone\.backbone", r"encoder\.layer"),
            *HUB_PROJECTOR,
            *decoder_rules(r"model\.", hub=True),
        ),
        finalize,
    ),
)
