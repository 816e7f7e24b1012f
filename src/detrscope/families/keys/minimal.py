"""Key layout of the minimal DETR: the `detr_demo` weights."""

from __future__ import annotations

from detrscope.families.keys.key_map import KeyLayout
from detrscope.families.keys.torch_transformer import TORCH_TRANSFORMER

PUBLISHED = KeyLayout(
    name="published",
    mark="linear_class.weight",
    rules=(
        (r"backbone\.(.*)", r"backbone.body.\1"),
        (r"conv\.(weight|bias)", r"neck.projection.\1"),
        (r"row_embed", r"neck.position.rows"),
        (r"col_embed", r"neck.position.columns"),
        (r"query_pos", r"queries.content"),
        (r"linear_class\.(.*)", r"heads.class_head.\1"),
        (r"linear_bbox\.(.*)", r"heads.box_head.\1"),
        *TORCH_TRANSFORMER,
    ),
)
