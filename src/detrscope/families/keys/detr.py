"""Key layouts of DETR's checkpoints: the authors' and Hugging Face's."""

from __future__ import annotations

from detrscope.families.keys.hugging_face import HF_BACKBONES, HF_TRANSFORMER
from detrscope.families.keys.key_map import KeyLayout, Rule
from detrscope.families.keys.torch_transformer import TORCH_TRANSFORMER

PUBLISHED = KeyLayout(
    name="published",
    mark="input_proj.weight",
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

_STEPS = (
    "mix",
    "reduce",
    "fusions.0",
    "fusions.1",
    "fusions.2",
)  # in order; their layers are numbered from 1
_NUMBERED: tuple[Rule, ...] = (
    *(rule for n, ours in enumerate(_STEPS, start=1) for rule in (
        (rf"mask_head\.lay{n}\.(.*)", rf"mask_head.{ours}.conv.\1"),
        (rf"mask_head\.gn{n}\.(.*)", rf"mask_head.{ours}.norm.\1"),
    )),
    *((rf"mask_head\.adapter{n + 1}\.(.*)", rf"mask_head.laterals.{n}.\1") for n in range(3)),
    (r"mask_head\.out_lay\.(.*)", r"mask_head.output.\1"),
    (r"bbox_attention\.q_linear\.(.*)", r"mask_head.attention.query.\1"),
    (r"bbox_attention\.k_linear\.(.*)", r"mask_head.attention.key.\1"),
)  # fmt: skip
_NAMED: tuple[Rule, ...] = (
    (r"mask_head\.conv1\.(.*)", r"mask_head.mix.\1"),
    (r"mask_head\.conv2\.(.*)", r"mask_head.reduce.\1"),
    (r"mask_head\.fpn_stages\.(\d)\.fpn_adapter\.(.*)", r"mask_head.laterals.\1.\2"),
    (r"mask_head\.fpn_stages\.(\d)\.refine\.(.*)", r"mask_head.fusions.\1.\2"),
    (r"mask_head\.output_conv\.(.*)", r"mask_head.output.\1"),
    (r"bbox_attention\.q_proj\.(.*)", r"mask_head.attention.query.\1"),
    (r"bbox_attention\.k_proj\.(.*)", r"mask_head.attention.key.\1"),
)


def _inside(layout: KeyLayout) -> tuple[Rule, ...]:
    """Return the rules of the detector that a model with a mask head holds as `detr`."""
    return tuple((rf"detr\.{pattern}", ours) for pattern, ours in layout.rules)


# The authors' files and older ones of Hugging Face name the mask head alike; their detectors have no key in common.
WITH_MASKS = KeyLayout(
    name="published, with masks",
    mark="bbox_attention.q_linear.weight",
    rules=(*_NUMBERED, *_inside(PUBLISHED), *_inside(HUGGING_FACE)),
)
HUGGING_FACE_WITH_MASKS = KeyLayout(
    name="Hugging Face, with masks",
    mark="bbox_attention.q_proj.weight",
    rules=(*_NAMED, *_inside(HUGGING_FACE)),
)
# Those with masks first: their detector alone would be taken for one without.
LAYOUTS = (WITH_MASKS, HUGGING_FACE_WITH_MASKS, PUBLISHED, HUGGING_FACE)
