"""Key layouts of RF-DETR's checkpoints: the authors', and Hugging Face's, which writes either."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.families.keys.hub_config import Heads, Partial
from detrscope.families.keys.hugging_face import hf_attention
from detrscope.families.keys.key_map import KeyLayout, Rule
from detrscope.families.keys.lw_detr import POSITION, GroupHubConfig, decoder_rules, projector_rules

CLASS = "backbone.class_token"
SEG_NANO = (12, 26)  # patch and grid of the one released size without windows


def published_layers(patch: int, grid: int) -> dict[str, Any]:
    """Return windows, the layers within them and those whose tokens are used, of the released backbones.

    Args:
        patch: side of a patch, pixels.
        grid: side of the learned grid of positions, tokens.
    """
    if patch == 14:
        return {"windows": 4, "window_layers": (0, 1, 3, 4, 6, 7, 9, 10), "maps": (1, 4, 7, 10)}
    windows = 1 if (patch, grid) == SEG_NANO else 2
    return {"windows": windows, "window_layers": (0, 1, 2, 4, 5, 7, 8, 10, 11), "maps": (2, 5, 8, 11)}


class DinoFields(Partial):
    """Keys of the backbone's own config."""

    model_type: Literal["rf_detr_dinov2"] = "rf_detr_dinov2"
    hidden_act: Literal["gelu"] = "gelu"
    num_attention_heads: Heads = 6
    mlp_ratio: Literal[4] = 4
    qkv_bias: Literal[True] = True
    use_swiglu_ffn: Literal[False] = False
    apply_layernorm: Literal[True] = True
    num_register_tokens: Literal[0] = 0
    layer_norm_eps: Annotated[float, Field(ge=1e-6, le=1e-6)] = 1e-6
    num_windows: Heads = 4
    out_indices: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]


class RFDetrHubConfig(GroupHubConfig):
    """Keys of RF-DETR's configs; what is fixed here is refused where it differs."""

    layer_norm_eps: Annotated[float, Field(gt=0, le=0.1)] = 1e-5
    mask_downsample_ratio: Literal[4] = 4
    segmentation_head_activation_function: Literal["gelu"] = "gelu"
    backbone_config: DinoFields

    def settings(self) -> dict[str, Any]:
        """Translate the keys to our settings."""
        dino = self.backbone_config
        maps = tuple(index - 1 for index in dino.out_indices)  # theirs counts the embedding as 0
        return {
            **super().settings(),
            "projector_epsilon": self.layer_norm_eps,
            "backbone": {
                "heads": dino.num_attention_heads,
                "windows": dino.num_windows,
                "window_layers": tuple(n for n in range(maps[-1] + 1) if n not in dino.out_indices),
                "maps": maps,
            },
        }


def finalize(state: dict[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """Turn positions [1, 1 + S, D] into a map [D, H, W]; add the first to the class token, whose it is.

    Layers after the last one that is used are dropped.
    """
    if POSITION not in state or CLASS not in state:
        return state
    position = state[POSITION]
    side = math.isqrt(max(0, position.shape[1] - 1)) if position.dim() == 3 else 0
    if side == 0 or side * side != position.shape[1] - 1 or state[CLASS].shape != position[:, :1].shape:
        raise UserError(f"positions {list(position.shape)}: expected [1, 1 + a square number, width]")
    state[CLASS] = state[CLASS][0, 0] + position[0, 0]
    state[POSITION] = position[0, 1:].T.reshape(-1, side, side).contiguous()
    embedding = state.get("backbone.embedding.weight")
    patch = embedding.shape[-1] if embedding is not None and embedding.dim() == 4 else 0
    own = settings.get("backbone", {}).get("maps") or published_layers(patch, side)["maps"]
    unused = [key for key in state if key.startswith("backbone.layers.") and int(key.split(".")[2]) > own[-1]]
    if unused:
        log.info("left out: %d tensors of backbone layers after %d, which no map uses", len(unused), own[-1])
    return {key: tensor for key, tensor in state.items() if key not in unused}


_LAYER: tuple[Rule, ...] = (
    (r"norm1\.(.*)", r"self_residual.norm.\2"),
    (r"norm2\.(.*)", r"feedforward_residual.norm.\2"),
    (r"layer_scale1\.lambda1", "self_residual.factor"),
    (r"layer_scale2\.lambda1", "feedforward_residual.factor"),
    (r"attention\.attention\.(query|key|value)\.(.*)", r"self_attention.\2.\3"),
    (r"attention\.output\.dense\.(.*)", r"self_attention.output.\2"),
    *((pattern, f"self_attention.{ours}") for pattern, ours in hf_attention("attention")),
    (r"mlp\.fc1\.(.*)", r"feedforward.expand.\2"),
    (r"mlp\.fc2\.(.*)", r"feedforward.contract.\2"),
)


def _backbone(prefix: str) -> tuple[Rule, ...]:
    return (
        (prefix + r"embeddings\.cls_token", CLASS),
        (prefix + r"embeddings\.mask_token", ""),  # of pretraining
        (prefix + r"embeddings\.position_embeddings", POSITION),
        (prefix + r"embeddings\.patch_embeddings\.projection\.(.*)", r"backbone.embedding.\1"),
        (prefix + r"layernorm\.(.*)", r"backbone.norm.\1"),
        *(
            (prefix + rf"encoder\.layer\.(\d+)\.{theirs}", rf"backbone.layers.\1.{ours}")
            for theirs, ours in _LAYER
        ),
    )


# (in the authors' names, in Hugging Face's, in ours)
_MASK_HEAD = (
    (r"blocks\.(\d+)\.dwconv\.(.*)", r"blocks\.(\d+)\.depthwise_conv\.(.*)", r"blocks.\1.conv.\2"),
    (r"blocks\.(\d+)\.norm\.(.*)", r"blocks\.(\d+)\.layernorm\.(.*)", r"blocks.\1.norm.\2"),
    (r"blocks\.(\d+)\.pwconv1\.(.*)", r"blocks\.(\d+)\.pointwise_conv\.(.*)", r"blocks.\1.linear.\2"),
    (r"spatial_features_proj\.(.*)", r"spatial_features_proj\.(.*)", r"pixel_projection.\1"),
    (r"query_features_block\.norm_in\.(.*)", r"query_features_block\.norm\.(.*)", r"query_norm.\1"),
    (r"query_features_block\.layers\.0\.(.*)", r"query_features_block\.mlp\.fc1\.(.*)", r"query_expand.\1"),
    (r"query_features_block\.layers\.2\.(.*)", r"query_features_block\.mlp\.fc2\.(.*)", r"query_contract.\1"),
    (r"query_features_proj\.(.*)", r"query_features_proj\.(.*)", r"query_projection.\1"),
    (r"bias", r"segmentation_bias", "bias"),
)
_AUTHORS_MASK_HEAD: tuple[Rule, ...] = tuple(
    (rf"segmentation_head\.{theirs}", f"mask_head.{ours}") for theirs, _, ours in _MASK_HEAD
)
_HUB_MASK_HEAD: tuple[Rule, ...] = tuple((theirs, f"mask_head.{ours}") for _, theirs, ours in _MASK_HEAD)

_HUB = r"model\.backbone\.projector\."

_HUB_MARK = "model.backbone.backbone.embeddings.cls_token"
_HUB_RULES: tuple[Rule, ...] = (
    *_backbone(r"model\.backbone\.backbone\."),
    (
        _HUB + r"projector_layer\.bottlenecks\.(\d+)\.conv1\.(.*)",
        r"neck.scales.0.fuse.bottlenecks.\1.0.\2",
    ),
    (
        _HUB + r"projector_layer\.bottlenecks\.(\d+)\.conv2\.(.*)",
        r"neck.scales.0.fuse.bottlenecks.\1.1.\2",
    ),
    (_HUB + r"projector_layer\.(.*)", r"neck.scales.0.fuse.\1"),
    (_HUB + r"layer_norm\.(.*)", r"neck.scales.0.norm.\1"),
    *decoder_rules(r"model\.", hub=True),
)

LAYOUTS = (
    KeyLayout(
        "authors'",
        "backbone.0.encoder.encoder.embeddings.cls_token",
        (
            *_backbone(r"backbone\.0\.encoder\.encoder\."),
            *projector_rules(r"backbone\.0\.projector"),
            *decoder_rules(r"transformer\.", hub=False),
            *_AUTHORS_MASK_HEAD,
        ),
        finalize,
    ),
    KeyLayout(
        "Hugging Face, with masks",
        f"model.{_HUB_MARK}",
        (*((rf"model\.{pattern}", ours) for pattern, ours in _HUB_RULES), *_HUB_MASK_HEAD),
        finalize,
    ),
    KeyLayout("Hugging Face", _HUB_MARK, _HUB_RULES, finalize),
)
