"""Hugging Face's image processors: every key that changes pixels is applied, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from detrscope.core.errors import UserError
from detrscope.core.json_schema import short_repr, type_name, validate
from detrscope.core.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Filter, Fit, Preprocessing, Side
from detrscope.core.text_files import read_json_text

DEFAULT_LONG_SIDE = 1333  # transformers' own where a size is one number
FILTERS: dict[int, Filter] = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
FILTER_NAMES = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
# Keys that change neither the pixels of one image nor its size.
NEUTRAL = frozenset((
    "feature_extractor_type", "processor_class", "_processor_class", "auto_map",
    "do_convert_rgb", "do_convert_annotations", "do_pad", "default_to_square", "return_tensors",
    "data_format", "input_data_format", "device", "disable_grouping", "transformers_version",
    "return_segmentation_masks", "annotations", "masks_path", "_valid_processor_keys", "num_labels",
    "image_seq_length", "return_row_col_info", "id2label", "label2id", "name_or_path", "_name_or_path",
    "crop_size",
))  # fmt: skip

# Processors that resize without smoothing, in transformers 5 and as those of before it are called.
WITHOUT_ANTIALIAS = ("RfDetrImageProcessor", "RfDetrImageProcessorFast")

Three = Annotated[list[float], Field(min_length=3, max_length=3)]
Numbers = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]


class SizeFields(pydantic.BaseModel):
    """Keys of a size."""

    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True)

    shortest_edge: Side | None = None
    longest_edge: Side | None = None
    height: Side | None = None
    width: Side | None = None
    max_height: Side | None = None
    max_width: Side | None = None


class ProcessorFields(pydantic.BaseModel):
    """Keys of a processor that change pixels, with transformers' defaults for DETR."""

    model_config = pydantic.ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)

    do_resize: bool = True
    size: Side | dict[str, Any] | None = None
    max_size: Side | None = None
    resample: Annotated[int, Field(ge=0, le=5)] | str | None = 2
    do_rescale: bool = True
    rescale_factor: Annotated[float, Field(gt=0)] | None = 1 / 255
    do_normalize: bool = True
    image_mean: Three | None = None
    image_std: Numbers | None = None
    pad_size: None = None
    image_processor_type: str | None = None
    format: Literal["coco_detection", "coco_panoptic"] | None = "coco_detection"


def read_processor(path: Path) -> tuple[Preprocessing, tuple[str, ...]]:
    """Read a preprocessor_config.json, or the image processor in a processor_config.json.

    Returns:
        The preprocessing, and remarks on unknown keys.

    Raises:
        UserError: not JSON, a value of the wrong type, or an unsupported step; names the key.
    """
    tree, name = read_json_text(path), str(path)
    if isinstance(tree, dict) and "image_processor" in tree:
        tree, name = tree["image_processor"], f"{path}: image_processor"
    fields = validate(ProcessorFields, tree, name)
    notes = _unknown(fields, name)
    fit, sides, box = _size(fields, name)
    mean, std = _normalisation(fields)
    filter_ = "bilinear" if not fields.do_resize else _filter(fields, name)
    antialias = fields.image_processor_type not in WITHOUT_ANTIALIAS
    return Preprocessing(*sides, mean, std, fit, box, filter_, antialias), notes


def _unknown(fields: ProcessorFields, name: str) -> tuple[str, ...]:
    """Refuse unknown switches that are on; return a remark on other unknown keys."""
    unknown = []
    for key, value in (fields.model_extra or {}).items():
        if key in NEUTRAL or value is None or value is False:
            continue
        if key.startswith("do_") or key in ("size_divisor", "size_divisibility", "offset"):
            raise UserError(
                f"{name}: {key}: this step is not supported; expected false or none, found {short_repr(value)}"
            )
        unknown.append(key)
    return (f"{name}: not used: {', '.join(sorted(unknown))}",) if unknown else ()


def _size(fields: ProcessorFields, name: str) -> tuple[Fit, tuple[int, int], tuple[int, int] | None]:
    """Return how images are resized: fit, short and long side, box."""
    sides = (Preprocessing.short_side, Preprocessing.long_side)
    if not fields.do_resize:
        return "none", sides, None
    if fields.size is None:
        return "sides", sides, None
    if isinstance(fields.size, int):
        return "sides", (fields.size, fields.max_size or DEFAULT_LONG_SIDE), None
    size = validate(SizeFields, fields.size, f"{name}: size")
    given = {key for key, value in size if value is not None}
    longest = size.longest_edge or fields.max_size
    if given <= {"shortest_edge", "longest_edge"} and size.shortest_edge and longest:
        return "sides", (size.shortest_edge, longest), None
    if given == {"height", "width"} and size.height and size.width:
        return "exact", sides, (size.height, size.width)
    if given == {"max_height", "max_width"} and size.max_height and size.max_width:
        return "within", sides, (size.max_height, size.max_width)
    raise UserError(
        f"{name}: size: expected shortest_edge and longest_edge, height and width, or max_height and max_width, found"
        f" {', '.join(sorted(given)) or 'none of them'}"
    )


def _normalisation(fields: ProcessorFields) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and deviation for pixels in 0..1: (x r - m) / s = (x/255 - m/255r) / (s/255r)."""
    factor = (fields.rescale_factor or 1 / 255) if fields.do_rescale else 1.0
    unit = 1.0 if abs(factor * 255 - 1) < 1e-9 else factor * 255
    mean, std = fields.image_mean or list(IMAGENET_MEAN), fields.image_std or list(IMAGENET_STD)
    if not fields.do_normalize:
        mean, std = [0.0] * 3, [1.0] * 3
    return (mean[0] / unit, mean[1] / unit, mean[2] / unit), (std[0] / unit, std[1] / unit, std[2] / unit)


def _filter(fields: ProcessorFields, name: str) -> Filter:
    """Return the filter of the resize, given as Pillow's number or name."""
    given = fields.resample
    number = FILTER_NAMES.get(given.lower(), -1) if isinstance(given, str) else 2 if given is None else given
    if number not in FILTERS:
        names = {value: key for key, value in FILTER_NAMES.items()}
        known = ", ".join(f"{key} ({value})" for key, value in FILTERS.items())
        found = (
            f"{names[number]} ({number})" if number in names else f"{type_name(given)} {short_repr(given)}"
        )
        raise UserError(f"{name}: resample: expected one of {known}, found {found}")
    return FILTERS[number]
