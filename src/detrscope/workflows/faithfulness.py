"""Faithfulness measured on a model and a dataset: hide what a map ranks highest and see whether the detection goes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from detrscope.console import log, progress, written_whole
from detrscope.core.attention_map import AttentionMap, Selection, parts_of
from detrscope.core.edits import Bias, Edit, Gain
from detrscope.core.errors import UserError, nearest
from detrscope.core.probe import Probe
from detrscope.core.records import DenseRecord
from detrscope.core.safe_text import csv_cell
from detrscope.core.trace import Trace
from detrscope.core.types import Batch, Outputs
from detrscope.data.dataset import DetectionDataset
from detrscope.data.open_dataset import open_dataset
from detrscope.families.detector import Detector, Precision, load
from detrscope.lens.faithfulness import (
    Curve,
    Sanity,
    Summary,
    detection_score,
    first_of,
    fractions,
    summarise,
)
from detrscope.views.faithfulness import draw_faithfulness
from detrscope.workflows.domain import DogsOnly
from detrscope.workflows.explainers import EXPLAINERS, RANDOM, Case, cases_in
from detrscope.workflows.sanity import sanity_check

SITES = "decoder.*.cross"  # where keys are hidden
RANDOM_ORDERS = 3  # for each detection
BLUR = 0.08  # standard deviation of the blur that insertion starts from, as a part of the image's longer side


@dataclass(frozen=True)
class Faithfulness:
    """What was measured.

    Attributes:
        model: its variant.
        data: the name of the dataset.
        images: how many were looked at.
        detections: how many were followed.
        steps: of every curve.
        threshold: least score of a detection that is followed.
        summaries: a line for each method, place and direction.
        muted: mean score, as a part of the undisturbed one, with all cross-attention muted.
        sanity: rank correlations after shuffling parameters; empty where not asked for.
    """

    model: str
    data: str
    images: int
    detections: int
    steps: int
    threshold: float
    muted: float
    summaries: tuple[Summary, ...]
    sanity: tuple[Sanity, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


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
    weights: str | Path | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    out: str | Path | None = None,
) -> Faithfulness:
    """Deletion and insertion curves of every method over the detections of a dataset's first images.

    Keys are hidden from all cross-attention: with a bias of -inf where attention is dense (what remains is
    renormalised by the softmax), with a gain of 0 where it is deformable. Pixels are hidden by the mean colour; pixels
    that are not shown yet are blurred.

    Args:
        model: variant, checkpoint, run folder, Hugging Face folder or id, or a `Detector`.
        data: what `open_dataset` understands, or a dataset.
        split: of `data`.
        count: how many images, the first ones.
        threshold: least score of a detection that is followed.
        steps: of every curve.
        methods: names of `EXPLAINERS`; all of them where empty. The random order is always there.
        sanity: images for the check with shuffled parameters; 0 leaves it out.
        weights: for a variant that is not loaded yet: a file in place of the published one, or "random".
        device: where to run, for a model that is not loaded yet.
        precision: what to compute in, for a model that is not loaded yet.
        out: folder for faithfulness.json, faithfulness.csv and faithfulness.png; None writes nothing.

    Returns:
        The summaries.

    Raises:
        UserError: a wrong argument, or no detection to follow.
    """
    for name, value, least in (("count", count, 1), ("steps", steps, 2), ("sanity", sanity, 0)):
        if value < least:
            raise UserError(f"{name} {value}: expected {least} or more")
    for method in methods:
        if method not in EXPLAINERS:
            raise UserError(f"method '{method}' is not known; {nearest(method, EXPLAINERS)}")
    dataset = data if isinstance(data, DetectionDataset) else open_dataset(str(data), split)
    detector = (
        load(model, weights=weights, device=device, precision=precision)
        if isinstance(model, str | Path)
        else model
    )
    chosen = [*methods] or [*EXPLAINERS]
    paths = [image.path for image in dataset.images[:count]]
    domain = DogsOnly(model, weights)
    for path in paths:
        domain.note(path, path.name)
    domain.warn()
    curves: list[Curve] = []
    muted: list[float] = []
    with progress() as bar:
        task = bar.add_task("images, hiding what each method ranks highest", total=len(paths))
        for done, path in enumerate(paths, start=1):
            cases = [*cases_in(detector, path, threshold)]
            part = 1 / (max(1, len(cases)) * (len(chosen) + RANDOM_ORDERS))
            for case in cases:
                hide = _Hider(detector, case)
                curves += _curves(hide, chosen, steps, len(muted), partial(bar.advance, task, part))
                muted.append(hide.muted)
            bar.update(task, completed=done)
    if not muted:
        raise UserError(
            f"{dataset.name}: nothing was found with a score of {threshold} or more in {len(paths)} images"
        )
    checked = sanity_check(detector, paths[:sanity], chosen, threshold) if sanity else ()
    found = Faithfulness(
        model=detector.card.variant,
        data=dataset.name,
        images=len(paths),
        detections=len(muted),
        muted=fmean(muted),
        steps=steps,
        threshold=threshold,
        summaries=tuple(summarise(curves, RANDOM)),
        sanity=tuple(checked),
    )
    if out is not None:
        write_faithfulness(found, out)
    return found


def write_faithfulness(found: Faithfulness, out: str | Path) -> None:
    """Write `faithfulness.json` (all of it), `faithfulness.csv` (a line for each summary) and `faithfulness.png`."""
    out = Path(out)
    with written_whole(out / "faithfulness.json") as path:
        path.write_text(json.dumps(found.to_json(), indent=1) + "\n", encoding="utf-8")
    rows = [{k: v for k, v in asdict(s).items() if k != "scores"} for s in found.summaries]
    with (
        written_whole(out / "faithfulness.csv") as path,
        open(path, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows({key: csv_cell(value) for key, value in row.items()} for row in rows)
    title = f"{found.model}, {found.detections} detections in {found.images} images of {found.data}"
    draw_faithfulness(found.summaries, out / "faithfulness.png", title=title)
    log.info(f"written to {out}")


def _curves(
    hide: _Hider, methods: Sequence[str], steps: int, number: int, on_method: Callable[[], None]
) -> list[Curve]:
    """Return the curves of every method for one detection; `on_method` is called after each method."""
    generator = torch.Generator().manual_seed(number)
    weights = [(method, EXPLAINERS[method](hide.case)) for method in methods]
    weights += [
        (RANDOM, torch.rand(hide.case.trace.tokens, generator=generator)) for _ in range(RANDOM_ORDERS)
    ]
    curves = []
    for method, one in weights:
        for where, deletion, insertion in (
            ("keys", *hide.keys(one, steps)),
            ("pixels", *hide.pixels(one, steps)),
        ):
            curves.append(Curve(method, where, "deletion", number, _relative(deletion, hide.whole)))
            curves.append(Curve(method, where, "insertion", number, _relative(insertion, hide.whole)))
        on_method()
    return curves


def _relative(scores: Tensor, whole: float) -> tuple[float, ...]:
    return tuple((scores / whole).tolist())


class _Hider:
    """Runs the model on one image with parts of it hidden, and follows one detection."""

    def __init__(self, detector: Detector, case: Case) -> None:
        self.detector = detector
        self.case = case
        self.images = case.normalised[None]  # [1, 3, h, w]
        record = case.trace.record(case.trace.site("decoder.cross"))
        self.dense = isinstance(record, DenseRecord)
        self.whole = float(self._scores(self.images))
        self.muted = float(self._scores(self.images, [Gain(SITES, 0.0)])) / self.whole
        side = max(self.images.shape[-2:])
        self.blurred = _blur(self.images, BLUR * side)

    def keys(self, weights: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Scores with keys hidden, and shown, the highest first: [steps + 1] each.

        One key is always left: a softmax over none has no meaning.
        """
        counts = (fractions(steps) * (len(weights) - 1)).round()
        hidden = torch.cat(
            [first_of(weights, counts), ~first_of(weights, counts + 1)]
        )  # [2 * (steps + 1), S]
        if self.dense:
            scores = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))[
                :, None, None
            ]  # [n, 1, 1, S]
            images = self.images.expand(len(hidden), -1, -1, -1)
            found = self._scores(images, [Bias(SITES, scores)])
        else:
            edits = [Gain(SITES, 0.0, keys=tuple(one.nonzero()[:, 0].tolist())) for one in hidden]
            found = torch.cat([self._scores(self.images, [edit]) for edit in edits])
        deletion, insertion = found.split(steps + 1)
        return deletion, insertion

    def pixels(self, weights: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Scores with pixels hidden, and shown, the highest first: [steps + 1] each."""
        importance = _over_seen(self.case.trace, weights)  # [h, w]
        counts = (fractions(steps) * importance.numel()).round()
        first = first_of(importance.flatten(), counts).view(-1, 1, *importance.shape)  # [steps + 1, 1, h, w]
        deletion = self._scores(torch.where(first, 0.0, self.images))  # 0 is the mean colour
        insertion = self._scores(torch.where(first, self.images, self.blurred))
        return deletion, insertion

    @torch.no_grad()
    def _scores(self, images: Tensor, edits: Sequence[Edit] = ()) -> Tensor:
        """[B] on the CPU."""
        detector = self.detector
        batch = Batch(images.to(device=detector.device, dtype=detector.dtype))
        outputs: Outputs = detector.model(batch, probe=Probe(sites=[], edits=edits))
        return detection_score(outputs, self.case.detected, detector.card.scoring).float().cpu()


def _over_seen(trace: Trace, weights: Tensor) -> Tensor:
    """Weights of tokens [S] as a smooth map over the pixels of what the model saw: [h, w]."""
    parts = parts_of(weights.float(), trace.levels)
    seen = AttentionMap(
        parts, tuple(range(len(parts))), trace.geometry.of_seen(), trace.image, Selection("weights")
    )
    return seen.on_image()


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, [B, 3, H, W] -> [B, 3, H, W]."""
    reach = int(3 * sigma) + 1
    offset = torch.arange(-reach, reach + 1, dtype=images.dtype)
    kernel = (-0.5 * (offset / sigma) ** 2).exp()
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)  # [3, 1, k]
    x = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    x = F.conv2d(x, kernel[:, :, None], groups=3)
    return F.conv2d(x, kernel[..., None], groups=3)
