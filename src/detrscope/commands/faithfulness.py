"""Measure how faithful explanations are to a model, and write the results."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from detrscope.commands.domain_warning import DomainWarning
from detrscope.console import log
from detrscope.core.files import atomic_write
from detrscope.core.safe_text import safe_csv_cell
from detrscope.data.dataset import DetectionDataset
from detrscope.data.open_dataset import open_dataset
from detrscope.explain.faithfulness import Faithfulness, check_faithfulness_arguments, measure_faithfulness
from detrscope.inference.detector import Detector
from detrscope.inference.load_detector import LOAD_DEFAULTS, LoadOptions, open_detector
from detrscope.views.faithfulness import draw_faithfulness


def faithfulness(
    model: str | Path | Detector,
    data: str | Path | DetectionDataset,
    *,
    split: str = "val",
    count: int = 100,
    threshold: float = 0.5,
    steps: int = 16,
    methods: Sequence[str] = (),
    sanity: int = 20,
    out: str | Path | None = None,
    load_options: LoadOptions = LOAD_DEFAULTS,
) -> Faithfulness:
    """Measure deletion and insertion curves of every method over the detections in the first images of a dataset.

    Args:
        model: variant, checkpoint, run folder, Hugging Face folder or id, or a `Detector`.
        data: a dataset, or a source that `open_dataset` understands.
        split: split of `data`.
        count: number of images, the first ones.
        threshold: minimum score of a followed detection.
        steps: steps of every curve.
        methods: names of `EXPLAINERS`; all of them where empty. The random order is always included.
        sanity: number of images for the check with shuffled parameters; 0 skips it.
        out: folder for faithfulness.json, faithfulness.csv and faithfulness.png; None writes nothing.
        load_options: how to load a model that is given by name.

    Raises:
        UserError: a wrong argument, or no detection to follow.
    """
    check_faithfulness_arguments(count, steps, sanity, methods)
    dataset = data if isinstance(data, DetectionDataset) else open_dataset(str(data), split)
    detector = open_detector(model, load_options)
    domain = DomainWarning(detector)
    for image in dataset.images[:count]:
        domain.note(image.path, image.path.name)
    domain.warn()
    result = measure_faithfulness(
        detector, dataset, count=count, threshold=threshold, steps=steps, methods=methods, sanity=sanity
    )
    if out is not None:
        write_faithfulness(result, out)
    return result


def write_faithfulness(result: Faithfulness, out: str | Path) -> None:
    """Write `faithfulness.json` (all of it), `faithfulness.csv` (a line for each summary) and `faithfulness.png`."""
    out = Path(out)
    with atomic_write(out / "faithfulness.json") as path:
        path.write_text(json.dumps(result.to_json(), indent=1) + "\n", encoding="utf-8")
    rows = [{k: v for k, v in asdict(s).items() if k != "scores"} for s in result.summaries]
    with (
        atomic_write(out / "faithfulness.csv") as path,
        open(path, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows({key: safe_csv_cell(value) for key, value in row.items()} for row in rows)
    title = f"{result.model}, {result.detections} detections in {result.images} images of {result.data}"
    draw_faithfulness(result.summaries, out / "faithfulness.png", title=title)
    log.info(f"written to {out}")
