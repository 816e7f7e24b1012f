"""Why a detector's AP is what it is: a table, a page with the worst images, and every error as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from detrscope.core.errors import UserError
from detrscope.core.files import atomic_write, check_writable_folder
from detrscope.data.dataset import DetectionDataset
from detrscope.data.image_reader import read_image
from detrscope.data.open_dataset import open_dataset
from detrscope.evaluation.error_types import ErrorTypes, error_types
from detrscope.explain.why import Why, explain_errors
from detrscope.inference.detector import Detector
from detrscope.inference.load_detector import LOAD_DEFAULTS, LoadOptions, open_detector
from detrscope.views.why_page import WhyPage, picture_of, shown_verdicts

PAGE, NUMBERS = "why.html", "why.json"


def why(
    model: str | Path | Detector,
    data: str | Path | DetectionDataset,
    *,
    split: str = "val",
    threshold: float = 0.5,
    out: str | Path | None = None,
    workers: int = 0,
    load_options: LoadOptions = LOAD_DEFAULTS,
) -> Why:
    """Say why a model's AP on a dataset is what it is: each error with the stage of the path where it arose.

    Args:
        model: variant, checkpoint, run folder, Hugging Face folder or id, or a `Detector`.
        data: a dataset, or a source that `open_dataset` understands.
        split: split of `data`.
        threshold: minimum score of a detection.
        out: folder for `why.html`, the page, and `why.json`; None writes nothing.
        workers: processes that read images; 0 reads them in this one.
        load_options: how to load a model that is given by name.

    Raises:
        UserError: a wrong argument or a model that lacks classes of the dataset.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold {threshold:g}: expected a score between 0 and 1")
    if out is not None:
        check_writable_folder(Path(out))
    dataset = data if isinstance(data, DetectionDataset) else open_dataset(str(data), split)
    detector = open_detector(model, load_options)
    name = str(model) if isinstance(model, str | Path) else detector.card.variant
    result = explain_errors(detector, dataset, threshold=threshold, workers=workers, name=name)
    if out is not None:
        types = error_types(dataset.coco_json(), result.results, threshold, dataset.annotation_ids())
        _write(result, types, Path(out))
    return result


def _write(result: Why, types: ErrorTypes, out: Path) -> None:
    page = WhyPage(
        f"Why {result.model} has its AP on {result.source}",
        why_summary(result, types),
        result.costs,
        result.advice,
        result.verdicts,
        types.to_json(),
    )
    pictures = {}
    for index in shown_verdicts(result.verdicts, result.costs):
        verdict = result.verdicts[index]
        pixels = read_image(verdict.image).permute(1, 2, 0).contiguous().numpy()
        pictures[index] = picture_of(pixels, verdict)
    with atomic_write(out / PAGE) as temporary:
        temporary.write_text(page.html(pictures), encoding="utf-8")
    with atomic_write(out / NUMBERS) as temporary:
        tree = {**result.to_json(), "types": types.to_json()}
        temporary.write_text(json.dumps(tree, indent=1), encoding="utf-8")


def why_summary(result: Why, types: ErrorTypes | None = None) -> list[str]:
    """Return AP and counts of errors as sentences."""
    ap, ap50 = result.evaluation.AP, result.evaluation.AP50
    missed = sum(verdict.kind == "missed" for verdict in result.verdicts)
    false = len(result.verdicts) - missed
    suspected = sum(verdict.suspected for verdict in result.verdicts)
    text = "AP undefined: no boxes" if ap is None else f"AP {100 * ap:.1f}, AP50 {100 * (ap50 or 0):.1f}"
    if types is not None and ap is not None:
        low, high = 100 * types.interval.low, 100 * types.interval.high
        text += f"; 95% of the samples of these images give an AP of {low:.1f} to {high:.1f}"
    lines = [
        text + ".",
        f"{result.images} images, {result.objects} objects; from a score of {result.threshold:g} up {missed} are"
        f" missed, and {false} detections find none.",
    ]
    if suspected:
        lines.append(f"{suspected} errors may be wrong annotations.")
    return lines
