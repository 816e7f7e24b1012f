"""Key layouts of D-FINE's checkpoints: the authors' and Hugging Face's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from detrscope.families.keys.hgnet import hgnet_rules
from detrscope.families.keys.hub_config import Partial
from detrscope.families.keys.hugging_face import HF_REST, hf_attention
from detrscope.families.keys.key_map import KeyLayout, Rule, layer_rules
from detrscope.families.keys.rt_detr import HybridConfig, finalize, projection_rules, proposal_rules
from detrscope.families.keys.torch_transformer import TORCH_FEEDFORWARD, torch_attention

Eps = Annotated[float, Field(ge=1e-5, le=1e-5)]
Points = Annotated[int, Field(ge=1)]


class HGNetFields(Partial):
    """Keys of the backbone's own config."""

    hidden_act: Literal["relu"] = "relu"
    stem_strides: list[int] = [2, 1, 1, 2, 1]  # noqa: RUF012
    stage_downsample: list[bool] = [False, True, True, True]  # noqa: RUF012
    stage_downsample_strides: list[int] = [2, 2, 2, 2]  # noqa: RUF012

    @model_validator(mode="after")
    def strides_are_the_published(self) -> Self:
        """Refuse other strides, which shapes do not show."""
        for name, expected in (
            ("stem_strides", [2, 1, 1, 2, 1]),
            ("stage_downsample", [False, True, True, True]),
            ("stage_downsample_strides", [2, 2, 2, 2]),
        ):
            found = getattr(self, name)
            if found != expected[: len(found)]:
                raise ValueError(f"{name}: expected {expected}, found {found}")
        return self


class DistributionConfig(HybridConfig):
    """Keys of configs with D-FINE's encoder and decoder."""

    backbone_config: HGNetFields = HGNetFields()
    encode_proj_layers: Annotated[list[int], Field(min_length=1, max_length=1)] = [2]  # noqa: RUF012
    num_feature_levels: int = 3
    decoder_n_points: Points | list[Points] = 4
    decoder_offset_scale: Annotated[float, Field(ge=0.5, le=0.5)] = 0.5
    decoder_method: Literal["default"] = "default"
    eval_idx: Literal[-1] = -1
    layer_scale: Annotated[float, Field(ge=1, le=1)] | Literal[1] = 1
    layer_norm_eps: Eps = 1e-5
    batch_norm_eps: Eps = 1e-5

    @model_validator(mode="after")
    def attention_is_on_the_coarsest_map(self) -> Self:
        """Refuse self-attention of another map than the coarsest."""
        expected = self.attended_maps()
        if self.encode_proj_layers != expected:
            raise ValueError(f"encode_proj_layers: expected {expected}, found {self.encode_proj_layers}")
        return self

    def attended_maps(self) -> list[int]:
        """Return the maps that self-attention must be given for."""
        return [self.num_feature_levels - 1]

    def settings(self) -> dict[str, Any]:
        """Translate the keys to our settings."""
        settings = super().settings()
        points = self.decoder_n_points
        levels = (points,) * self.num_feature_levels if isinstance(points, int) else tuple(points)
        settings["decoder"] |= {"points": levels}
        return settings


def _renamed(theirs: str, names: dict[str, str]) -> tuple[Rule, ...]:
    """Build the rules of the blocks that fuse maps from the names inside a block."""
    blocks = {"fpn_blocks": "down_blocks", "pan_blocks": "up_blocks"}
    return tuple(
        (rf"{theirs}\.{block}\.(\d+)\.{name}\.(.*)", rf"encoder.fusion.{ours}.\1.{our}.\2")
        for block, ours in blocks.items()
        for name, our in names.items()
    )


AUTHORS_FUSION: tuple[Rule, ...] = (
    *_renamed("encoder", {"cv1": "first", "cv2": "branches.0", "cv3": "branches.1", "cv4": "last"}),
    (r"encoder\.lateral_convs\.(\d+)\.(.*)", r"encoder.fusion.laterals.\1.\2"),
    (r"encoder\.downsample_convs\.(\d+)\.0\.cv1\.(.*)", r"encoder.fusion.strided.\1.0.\2"),
    (r"encoder\.downsample_convs\.(\d+)\.0\.cv2\.(.*)", r"encoder.fusion.strided.\1.1.\2"),
)
HUB_FUSION: tuple[Rule, ...] = (
    *_renamed(
        r"model\.encoder",
        {
            "conv1": "first",
            "csp_rep1": "branches.0.0",
            "conv2": "branches.0.1",
            "csp_rep2": "branches.1.0",
            "conv3": "branches.1.1",
            "conv4": "last",
        },
    ),
    (r"model\.encoder\.lateral_convs\.(\d+)\.(.*)", r"encoder.fusion.laterals.\1.\2"),
    (r"model\.encoder\.downsample_convs\.(\d+)\.conv1\.(.*)", r"encoder.fusion.strided.\1.0.\2"),
    (r"model\.encoder\.downsample_convs\.(\d+)\.conv2\.(.*)", r"encoder.fusion.strided.\1.1.\2"),
)


def head_rules(decoder: str, quality: str, classes: str, boxes: str) -> tuple[Rule, ...]:
    """Build the rules of heads and distributions from the names of their prefixes."""
    return (
        (rf"{decoder}(?:decoder\.)?reg_scale", "heads.scale"),
        (rf"{decoder}(?:decoder\.)?up", "heads.reach"),
        (rf"{decoder}pre_bbox_head\.(.*)", r"heads.start_head.\1"),
        (rf"{decoder}query_pos_head\.(.*)", r"decoder.position.\1"),
        (rf"{quality}lqe_layers\.(\d+)\.reg_conf\.(.*)", r"heads.quality_heads.\1.\2"),
        (rf"{classes}\.(.*)", r"heads.class_heads.\1"),
        (rf"{boxes}\.(.*)", r"heads.box_heads.\1"),
    )


def finalize_distributions(state: dict[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """Finalise RT-DETR's part; the authors' files hold the scale of steps as a whole number."""
    state = finalize(state, settings)
    return {key: tensor.float() if key == "heads.scale" else tensor for key, tensor in state.items()}


def direct_sampling(name: str) -> tuple[Rule, ...]:
    """Build the rules of deformable attention without projections."""
    return (
        (rf"{name}\.sampling_offsets\.(.*)", r"offsets.\2"),
        (rf"{name}\.attention_weights\.(.*)", r"weights.\2"),
        (rf"{name}\.num_points_scale", "point_shares"),
    )


_HUB_REST: tuple[Rule, ...] = (
    *HF_REST,
    (r"mlp\.layers\.0\.(.*)", r"feedforward.expand.\2"),
    (r"mlp\.layers\.1\.(.*)", r"feedforward.contract.\2"),
    (r"gateway\.(.*)", r"cross_residual.\2"),
)

LAYOUTS = (
    KeyLayout(
        "authors'",
        "decoder.decoder.layers.0.gateway.gate.weight",
        (
            *hgnet_rules(r"backbone\.stem\.", r"backbone\.stages\.", "conv", "bn"),
            *projection_rules(r"encoder\.input_proj", "neck.projections"),
            *layer_rules(
                "encoder", r"encoder\.encoder\.0", torch_attention("self_attn"), (),
                (
                    *TORCH_FEEDFORWARD,
                    (r"norm1\.(.*)", r"self_residual.norm.\2"),
                    (r"norm2\.(.*)", r"feedforward_residual.norm.\2"),
                ),
            ),
            *AUTHORS_FUSION,
            *projection_rules(r"decoder\.input_proj", "encoder.outputs"),
            *proposal_rules(r"decoder\."),
            *layer_rules(
                "decoder", r"decoder\.decoder", torch_attention("self_attn"), direct_sampling("cross_attn"),
                (
                    *TORCH_FEEDFORWARD,
                    (r"norm1\.(.*)", r"self_residual.norm.\2"),
                    (r"gateway\.(.*)", r"cross_residual.\2"),
                    (r"norm3\.(.*)", r"feedforward_residual.norm.\2"),
                ),
            ),
            *head_rules(
                r"decoder\.", r"decoder\.decoder\.", r"decoder\.dec_score_head", r"decoder\.dec_bbox_head"
            ),
            (r"decoder\.(?:anchors|valid_mask)", ""),
        ),
        finalize_distributions,
    ),
    KeyLayout(
        "Hugging Face",
        "model.decoder.layers.0.gateway.gate.weight",
        (
            *hgnet_rules(
                r"model\.backbone\.model\.embedder\.", r"model\.backbone\.model\.encoder\.stages\.",
                "convolution", "normalization",
            ),
            *projection_rules(r"model\.encoder_input_proj", "neck.projections"),
            *layer_rules("encoder", r"model\.encoder\.(?:aifi|encoder)\.0", hf_attention("self_attn"), (), _HUB_REST),
            *HUB_FUSION,
            *projection_rules(r"model\.decoder_input_proj", "encoder.outputs"),
            *proposal_rules(r"model\."),
            *layer_rules(
                "decoder", r"model\.decoder", hf_attention("self_attn"), direct_sampling("encoder_attn"), _HUB_REST
            ),
            *head_rules(
                r"model\.decoder\.", r"model\.decoder\.",
                r"(?:model\.decoder\.)?class_embed", r"(?:model\.decoder\.)?bbox_embed",
            ),
            (r"model\.(?:anchors|valid_mask)", ""),
        ),
        finalize_distributions,
    ),
)  # fmt: skip
