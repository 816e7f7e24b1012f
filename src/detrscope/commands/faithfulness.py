"""Measure how faithful explanations are to a model, and write the results."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detrscope.commands.domain_warning import DomainWarning
from detrscope.console import log
from detrscope.core.files import atomic_write
from detrscope.core.safe_text import safe_csv_cell
from detrscope.data.dataset import DetectionDataset
from detrscope.data.open_dataset import open_dataset
from detrscope.explain.faithfulness import OPTIONS, Faithfulness, FaithfulnessOptions, measure_faithfulness
from detrscope.explain.pointing_games import Region
from detrscope.inference.detector import Detector
from detrscope.inference.load_detector import LOAD_DEFAULTS, LoadOptions, open_detector
from detrscope.views.explanations import draw_explanations
from detrscope.views.faithfulness import draw_faithfulness


def faithfulness(
    model: str | Path | Detector,
    data: str | Path | DetectionDataset,
    *,
    split: str = "val",
    count: int = OPTIONS.count,
    threshold: float = OPTIONS.threshold,
    steps: int = OPTIONS.steps,
    methods: Sequence[str] = OPTIONS.methods,
    sanity: int = OPTIONS.sanity,
    region: Region = OPTIONS.region,
    masks: int = OPTIONS.masks,
    out: str | Path | None = None,
    load_options: LoadOptions = LOAD_DEFAULTS,
) -> Faithfulness:
    """Measure how faithful every explanation method is over the detections in the first images of a dataset.

    Deletion and insertion curves, pointing games, and the check with shuffled parameters.

    Args:
        model: variant, checkpoint, run folder, Hugging Face folder or id, or a `Detector`.
        data: a dataset, or a source that `open_dataset` understands.
        split: split of `data`.
        count: number of images, the first ones.
        threshold: minimum score of a followed detection.
        steps: steps of every curve.
        methods: names of `EXPLAINERS`; where empty, all but VPS, which is slow. The random order is always included.
        sanity: number of images for the check with shuffled parameters; 0 skips it.
        region: where the pointing games expect the maximum of a map: "box", that of the annotated object, or "badge",
            the planted shortcut of dogs drawn with badges.
        masks: number of masks of D-RISE for each image.
        out: folder for faithfulness.json, faithfulness.csv, pointing.csv, faithfulness.png and maps.png; None
            writes nothing.
        load_options: how to load a model that is given by name.

    Raises:
        UserError: a wrong argument, or no detection to follow.
    """
    options = FaithfulnessOptions(count, threshold, steps, tuple(methods), sanity, region, masks)
    options.check()
    dataset = data if isinstance(data, DetectionDataset) else open_dataset(str(data), split)
    detector = open_detector(model, load_options)
    domain = DomainWarning(detector)
    for image in dataset.images[:count]:
        domain.note(image.path, image.path.name)
    domain.warn()
    result = measure_faithfulness(detector, dataset, options)
    if out is not None:
        write_faithfulness(result, out)
    return result


def write_faithfulness(result: Faithfulness, out: str | Path) -> None:
    """Write all of it as JSON, a line for each summary as CSV, the curves, and the maps of some detections."""
    out = Path(out)
    with atomic_write(out / "faithfulness.json") as path:
        path.write_text(json.dumps(result.to_json(), indent=1) + "\n", encoding="utf-8")
    rows = [{k: v for k, v in asdict(s).items() if k != "scores"} for s in result.summaries]
    _write_csv(rows, out / "faithfulness.csv")
    if result.pointing:
        draw_explanations(result.examples, result.region, out / "maps.png")
        _write_csv([{"region": result.region} | asdict(s) for s in result.pointing], out / "pointing.csv")
    title = f"{result.model}, {result.detections} detections in {result.images} images of {result.data}"
    draw_faithfulness(result.summaries, out / "faithfulness.png", title=title)
    log.info(f"written to {out}")


def _write_csv(rows: Sequence[dict[str, Any]], target: Path) -> None:
    with atomic_write(target) as path, open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows({key: safe_csv_cell(value) for key, value in row.items()} for row in rows)
