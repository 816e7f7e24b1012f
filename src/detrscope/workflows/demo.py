"""Everybody's first five minutes: detect with the model that ships, train one from scratch, film its attention."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from detrscope.console import log, progress, written_whole
from detrscope.data.images import read_image
from detrscope.data.sources import open_dataset
from detrscope.evaluation.coco import Evaluation
from detrscope.families.detector import load
from detrscope.training.loop import Outcome
from detrscope.training.rundir import RunFolder
from detrscope.views.attention_film import attention_film
from detrscope.views.demo_page import DemoPage
from detrscope.views.detections import draw_detections
from detrscope.workflows.evaluate import evaluate
from detrscope.workflows.train import train
from detrscope.workflows.watch import read_metrics, read_moments, subjects_of

MODEL = "sprint-dense-n"
PRESET = "drawn-dogs"
THRESHOLD = 0.4


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    images: int  # to train on
    val: int
    pictures: int  # to detect in
    overrides: dict[str, int]


FULL = Size(2000, 300, 12, {})
QUICK = Size(
    240,
    60,
    6,
    {"train.max_steps": 100, "train.epochs": 7, "train.evaluate_every": 3, "train.watch.every": 10},
)


def demo(out: str | Path = "detrscope-demo", *, quick: bool = False, seed: int = 0) -> Path:
    """Draw dogs, detect them, evaluate, train from scratch, film it, and leave a page to look at it all.

    Interrupted and called again, it goes on where it was.

    Args:
        out: the folder to write.
        quick: under a minute, to see that everything works; the detector that is trained learns little.
        seed: of the training.

    Returns:
        The page, `index.html`.

    Raises:
        UserError: `out` holds something else.
        WorkFailed: training came to a number that is not finite.
    """
    out = Path(out)
    size = QUICK if quick else FULL
    source = f"drawn-dogs:count={size.images},val={size.val},test={size.pictures},size=128"
    log.info("1/5  drawing %d pictures (once; they are kept)", size.images + size.val + size.pictures)
    for split in ("train", "val", "test"):
        open_dataset(source, split)
    log.info(
        "2/5  detecting in %d pictures with the model that ships, which has not seen them", size.pictures
    )
    pictures = _detect(source, out)
    log.info("3/5  evaluating the model that ships on %d pictures", size.val)
    shipped = evaluate(MODEL, source, split="val", batch_size=16)
    log.info("4/5  training one from scratch")
    run = RunFolder(out / "run")
    outcome = train(
        preset=None if run.has_state else PRESET,
        data=None if run.has_state else source,
        out=run.path,
        resume=run.has_state,
        overrides={} if run.has_state else {"train.seed": seed, **size.overrides},
    )
    log.info("5/5  filming its attention")
    film = _film(source, run.path, out)
    page = DemoPage(
        pictures=[str(path.relative_to(out)) for path in pictures],
        film=str(film.relative_to(out)),
        curves="run/curves.png",
        shipped=_row(shipped),
        trained=read_metrics(run.path)[-1],
        steps=outcome.steps,
        seconds=_seconds(outcome),
    )
    with written_whole(out / "index.html") as path:
        path.write_text(page.html(), encoding="utf-8")
    return out / "index.html"


def _detect(source: str, out: Path) -> list[Path]:
    """Annotated pictures of the test split."""
    detector = load(MODEL, device="cpu")
    folder = out / "detections"
    shutil.rmtree(folder, ignore_errors=True)
    paths = []
    for image in open_dataset(source, "test").images:
        pixels = read_image(image.path)
        found = detector.detect(pixels, threshold=THRESHOLD)
        path = folder / f"{image.path.stem}.png"
        draw_detections(pixels, found, path, classes=detector.classes.names)
        paths.append(path)
    return paths


def _film(source: str, run: Path, out: Path) -> Path:
    """Attention over the steps of training."""
    metrics = read_metrics(run)
    val = open_dataset(source, "val")
    count = RunFolder(run).config().train.watch.pictures
    moments = read_moments(run, subjects_of(val, count))
    caption = (
        f"{MODEL}, last decoder layer's cross-attention: mean over heads and over the queries with a score of at least "
        "0.3 (else the best), each map divided by its peak; dotted: truth, blue: found"
    )
    with progress() as bar:
        task = bar.add_task("film", total=len(moments))
        return attention_film(
            moments, metrics, out / "attention.mp4", caption=caption, on_frame=lambda: bar.advance(task)
        )


def _row(evaluation: Evaluation) -> dict[str, float | None]:
    return {f"val/{name}": value for name, value in evaluation.summary().items()}


def _seconds(outcome: Outcome) -> float:
    return sum(float(row["seconds"] or 0) for row in read_metrics(outcome.folder))


def summary(page: Path) -> str:
    """What the demo left, for the terminal."""
    rows = read_metrics(page.parent / "run")
    last = json.dumps(
        {k: round(v, 3) for k, v in rows[-1].items() if v is not None and k in ("val/AP", "val/AP50")}
    )
    return f"{page}: pictures, film and curves; the detector trained from scratch: {last}"
