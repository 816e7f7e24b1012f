"""Key layouts of DETR's checkpoints: the authors' and Hugging Face's."""

from __future__ import annotations

from detrscope.families.keys.hugging_face import HF_BACKBONES, HF_TRANSFORMER
from detrscope.families.keys.key_map import KeyLayout
from detrscope.families.keys.torch_transformer import TORCH_TRANSFORMER

PUBLISHED = KeyLayout(
    name="published",
    mark="class_embed.weight",
    rules=(
        (r"backbone\.0\.body\.(.*)", r"backbone.body.\1"),
        (r"backbone\.1\.row_embed\.weight", r"neck.position.rows"),
        (r"backbone\.1\.col_embed\.weight", r"neck.position.columns"),
        (r"input_proj\.(weight|bias)", r"neck.projection.\1"),
        (r"query_embed\.weight", r"queries.position.weight"),
        (r"class_embed\.(.*)", r"heads.class_head.\1"),
        (r"bbox_embed\.(.*)", r"heads.box_head.\1"),
        *TORCH_TRANSFORMER,
    ),
)

HUGGING_FACE = KeyLayout(
    name="Hugging Face",
    mark="class_labels_classifier.weight",
    rules=(
        *HF_BACKBONES,
        (r"model\.input_projection\.(weight|bias)", r"neck.projection.\1"),
        (r"model\.query_position_embeddings\.weight", r"queries.position.weight"),
        (r"model\..*position_embedding\.row_embeddings\.weight", r"neck.position.rows"),
        (r"model\..*position_embedding\.column_embeddings\.weight", r"neck.position.columns"),
        (r"class_labels_classifier\.(.*)", r"heads.class_head.\1"),
        (r"bbox_predictor\.(.*)", r"heads.box_head.\1"),
        *HF_TRANSFORMER,
    ),
)
