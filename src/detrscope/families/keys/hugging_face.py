"""Keys of the transformers library: DETR's stacks and ResNets, in old and new versions."""

from __future__ import annotations

from detrscope.families.keys.key_map import Rule, layer_rules


def hf_attention(name: str) -> tuple[Rule, ...]:
    """Build the rules of an attention module; its output is `out_proj` in older files and `o_proj` in newer ones."""
    return (
        (rf"{name}\.q_proj\.(.*)", r"query.\2"),
        (rf"{name}\.k_proj\.(.*)", r"key.\2"),
        (rf"{name}\.v_proj\.(.*)", r"value.\2"),
        (rf"{name}\.(?:out_proj|o_proj)\.(.*)", r"output.\2"),
    )


HF_REST: tuple[Rule, ...] = (
    (r"(?:mlp\.)?fc1\.(.*)", r"feedforward.expand.\2"),
    (r"(?:mlp\.)?fc2\.(.*)", r"feedforward.contract.\2"),
    (r"self_attn_layer_norm\.(.*)", r"self_residual.norm.\2"),
    (r"final_layer_norm\.(.*)", r"feedforward_residual.norm.\2"),
)
HF_TRANSFORMER: tuple[Rule, ...] = (
    *layer_rules("encoder", r"model\.encoder", hf_attention("self_attn"), (), HF_REST),
    *layer_rules(
        "decoder", r"model\.decoder", hf_attention("self_attn"), hf_attention("encoder_attn"),
        (*HF_REST, (r"encoder_attn_layer_norm\.(.*)", r"cross_residual.norm.\2")),
    ),
    (r"model\.decoder\.layernorm\.(.*)", r"decoder.norm.\1"),
    (r"model\.encoder\.layernorm\.(.*)", r"encoder.norm.\1"),
)  # fmt: skip

_HF_BODY = r"model\.backbone\.(?:conv_encoder\.)?model\."


def hf_resnet_rules(stem: int = 1, shortcut: int = 0) -> tuple[Rule, ...]:
    """Build the rules from transformers' own ResNets to torchvision's names.

    Args:
        stem: number of convolutions in the stem.
        shortcut: index of the projection in our shortcuts: 1 after a pooling.
    """
    rules: list[Rule] = []
    names = {"convolution": ("conv{}", shortcut), "normalization": ("bn{}", shortcut + 1)}
    for part, (inside, index) in names.items():
        for number in range(stem):
            theirs = r"embedder\.embedder" + (rf"\.{number}" if stem > 1 else "")
            rules.append(
                (rf"{_HF_BODY}{theirs}\.{part}\.(.*)", rf"backbone.body.{inside.format(number + 1)}.\1")
            )
        for stage in range(4):
            head = rf"{_HF_BODY}encoder\.stages\.{stage}\.layers\.(\d+)\."
            ours = rf"backbone.body.layer{stage + 1}.\1."
            rules.append((rf"{head}shortcut\.(?:1\.)?{part}\.(.*)", rf"{ours}downsample.{index}.\2"))
            rules += [
                (rf"{head}layer\.{i}\.{part}\.(.*)", rf"{ours}{inside.format(i + 1)}.\2") for i in range(3)
            ]
    return tuple(rules)


HF_BACKBONES: tuple[Rule, ...] = (
    *hf_resnet_rules(),
    (_HF_BODY + r"((?:conv1|bn1|layer\d)\..*)", r"backbone.body.\1"),
)
"""timm's ResNet (torchvision's names), or transformers' own."""
