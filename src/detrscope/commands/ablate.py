"""Mute each part of a model in turn, and write what that does."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from detrscope.commands.domain_warning import SHIPPED, DomainWarning
from detrscope.console import log, progress
from detrscope.core.errors import UserError
from detrscope.core.files import atomic_write
from detrscope.core.safe_text import safe_csv_cell
from detrscope.data.dataset import DetectionDataset
from detrscope.data.image_reader import ImageSource, read_image
from detrscope.data.open_dataset import open_dataset
from detrscope.explain.ablation import GROUPS, Ablation, Unit, ablate_dataset, ablate_images
from detrscope.inference.detector import Detector
from detrscope.inference.load_detector import LOAD_DEFAULTS, LoadOptions, open_detector
from detrscope.inference.media.sources import expand_media_sources
from detrscope.views.ablation import draw_ablation


def ablate(
    sources: ImageSource | list[ImageSource] | None = None,
    model: str | Path | Detector | None = None,
    *,
    data: str | Path | DetectionDataset | None = None,
    split: str = "val",
    count: int = 100,
    batch_size: int = 1,
    threshold: float = 0.5,
    groups: int = GROUPS,
    out: str | Path | None = None,
    load_options: LoadOptions = LOAD_DEFAULTS,
) -> Ablation:
    """Mute every head, level, layer and group of queries in turn; compare detections in images, or AP on a dataset.

    Args:
        sources: images, where no dataset is given.
        model: variant, checkpoint, run folder, Hugging Face folder or id, or a `Detector`; None is the shipped model.
        data: a dataset, or a source that `open_dataset` understands, instead of images.
        split: split of `data`.
        count: number of images of `data`, the first ones; 0 is all.
        batch_size: images of `data` in a batch.
        threshold: minimum score of a detection in images.
        groups: number of groups of queries; 0 for none.
        out: folder for ablation.json, ablation.csv and ablation.png; None writes nothing.
        load_options: how to load a model that is given by name.

    Raises:
        UserError: a wrong argument, both images and a dataset or neither, or no detection to follow.
    """
    named = sources if isinstance(sources, list) else [] if sources is None else [sources]
    if (data is None) == (not named):
        raise UserError("ablate: expected images, or a dataset (data); give one of them")
    if groups < 0 or count < 0:
        raise UserError(f"{'groups' if groups < 0 else 'count'}: expected 0 or more")
    if data is not None:
        dataset = data if isinstance(data, DetectionDataset) else open_dataset(str(data), split)
        if count:
            dataset = dataset.subset([image.id for image in dataset.images[:count]])
        detector = open_detector(model or SHIPPED, load_options)
        result = ablate_dataset(detector, dataset, groups=groups, batch_size=batch_size, track=_shown)
    else:
        inputs = expand_media_sources(named)
        for source in inputs:
            if source.is_video:
                raise UserError(f"{source.name}: is a video; ablate takes images")
        detector = open_detector(model or SHIPPED, load_options)
        domain = DomainWarning(detector)
        for source in inputs:
            domain.note(source.content, source.name)
        domain.warn()
        images = [read_image(source.content) for source in inputs]
        name = inputs[0].name if len(inputs) == 1 else f"{len(inputs)} images"
        result = ablate_images(detector, images, threshold, groups=groups, source=name, track=_shown)
    if out is not None:
        write_ablation(result, out)
    return result


def write_ablation(result: Ablation, out: str | Path) -> None:
    """Write `ablation.json` (all of it), `ablation.csv` (a line for each part) and `ablation.png`."""
    out = Path(out)
    tree = result.to_json()
    with atomic_write(out / "ablation.json") as path:
        path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    with (
        atomic_write(out / "ablation.csv") as path,
        open(path, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, [*tree["effects"][0]])
        writer.writeheader()
        writer.writerows({key: safe_csv_cell(value) for key, value in row.items()} for row in tree["effects"])
    changes: dict[str, dict[str, float]] = {}
    for effect in result.effects:
        if effect.unit.kind != "queries":
            changes.setdefault(effect.unit.site, {})[effect.unit.name] = -effect.loss
    what = f"{result.source}, {result.images} images" if result.images > 1 else result.source
    if result.ap is None:
        label = f"change of the score, mean of {result.detections} detections"
    else:
        label = f"change of AP, which is {result.ap:.3f} undisturbed"
    draw_ablation(
        changes, out / "ablation.png", title=f"{result.model} on {what}: each part muted", label=label
    )
    log.info(f"written to {out}")


def _shown(units: Sequence[Unit]) -> Iterator[Unit]:
    """Yield the units with a progress bar."""
    with progress() as bar:
        task = bar.add_task("muting", total=len(units))
        for unit in units:
            yield unit
            bar.advance(task)
