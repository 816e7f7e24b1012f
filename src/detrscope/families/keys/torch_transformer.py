"""Keys of torch's nn.Transformer, which the published DETR keeps."""

from __future__ import annotations

from detrscope.families.keys.key_map import Rule, layer_rules


def torch_attention(name: str) -> tuple[Rule, ...]:
    """Build the rules of torch's attention module, which packs query, key and value in one matrix."""
    return (
        (rf"{name}\.in_proj_(weight|bias)", r"{query|key|value}.\2"),
        (rf"{name}\.out_proj\.(weight|bias)", r"output.\2"),
    )


TORCH_FEEDFORWARD: tuple[Rule, ...] = (
    (r"linear1\.(.*)", r"feedforward.expand.\2"),
    (r"linear2\.(.*)", r"feedforward.contract.\2"),
)
TORCH_TRANSFORMER: tuple[Rule, ...] = (
    *layer_rules(
        "encoder", r"transformer\.encoder", torch_attention("self_attn"), (),
        (
            *TORCH_FEEDFORWARD,
            (r"norm1\.(.*)", r"self_residual.norm.\2"),
            (r"norm2\.(.*)", r"feedforward_residual.norm.\2"),
        ),
    ),
    *layer_rules(
        "decoder", r"transformer\.decoder", torch_attention("self_attn"), torch_attention("multihead_attn"),
        (
            *TORCH_FEEDFORWARD,
            (r"norm1\.(.*)", r"self_residual.norm.\2"),
            (r"norm2\.(.*)", r"cross_residual.norm.\2"),
            (r"norm3\.(.*)", r"feedforward_residual.norm.\2"),
        ),
    ),
    (r"transformer\.(encoder|decoder)\.norm\.(.*)", r"\1.norm.\2"),
)  # fmt: skip
