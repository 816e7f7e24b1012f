"""Everybody's first five minutes: detect with the model that ships, see inside it, train one from scratch, film it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrscope.commands.evaluate import evaluate
from detrscope.commands.see import see
from detrscope.commands.timelapse import timelapse
from detrscope.commands.train import train
from detrscope.console import atomic_write, log
from detrscope.core.errors import UserError
from detrscope.data.image_reader import read_image
from detrscope.data.open_dataset import open_dataset
from detrscope.evaluation.coco_ap import Evaluation
from detrscope.inference.detector import Detector, load
from detrscope.lens.report import describe_differences, describe_parts
from detrscope.recording.recorder import load_recording
from detrscope.training.loop import Outcome
from detrscope.training.run_folder import RunFolder
from detrscope.training.time_budget import measure_step, steps_within
from detrscope.views.demo_page import DemoPage
from detrscope.views.detection_image import draw_detections
from detrscope.views.options import ViewOptions

MODEL = "sprint-dense-n"
PRESET = "drawn-dogs"
THRESHOLD = 0.4
FIGURES = (
    "per-query",
    "encoder",
    "heads",
    "relevance",
    "metrics",
)  # of all that are drawn, those on the page
MARKER = "demo.json"  # says which options made a folder


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    images: int  # to train on
    val: int
    pictures: int  # to detect in
    seconds: float  # of training, as far as the least number of steps allows
    most_steps: int
    least_steps: int  # fewer would not teach what the demo shows
    overrides: dict[str, int]


FULL = Size(2000, 300, 12, 200.0, 1300, 800, {})
QUICK = Size(240, 60, 6, 30.0, 100, 60, {"train.evaluate_every": 3, "train.recording.every": 10})
BATCH = 16  # of the preset


def demo(out: str | Path = "detrscope-demo", *, quick: bool = False, seed: int = 0) -> Path:
    """Draw dogs, detect them, see inside, evaluate, train from scratch, film it, and leave a page to look at it all.

    Interrupted and called again, it goes on where it was.

    Args:
        out: the folder to write.
        quick: under a minute, to see that everything works; the detector that is trained learns little.
        seed: of the training.

    Returns:
        The page, `index.html`.

    Raises:
        UserError: `out` holds something else, or a demo with other options.
        WorkFailed: training came to a number that is not finite.
    """
    out = Path(out)
    size = QUICK if quick else FULL
    _claim(out, {"quick": quick, "seed": seed})
    source = f"drawn-dogs:count={size.images},val={size.val},test={size.pictures},size=128"
    log.info("1/6  drawing %d pictures (once; they are kept)", size.images + size.val + size.pictures)
    for split in ("train", "val", "test"):
        open_dataset(source, split)
    log.info(
        "2/6  detecting in %d pictures with the model that ships, which has not seen them", size.pictures
    )
    detector = load(MODEL, device="cpu")
    pictures, richest = _detect(detector, source, out)
    log.info("3/6  seeing inside that model: everything about one look at %s", richest.name)
    (seen,) = see(
        richest,
        detector,
        options=ViewOptions(threshold=THRESHOLD),
        ground_truth=source,
        split="test",
        out=out / "seen",
    )
    log.info("4/6  evaluating the model that ships on %d pictures", size.val)
    shipped = evaluate(MODEL, source, split="val", batch_size=16)
    log.info("5/6  training one from scratch")
    run = RunFolder(out / "run")
    outcome = train(out=run.path, resume=True) if run.in_use else _train(run, source, size, seed)
    log.info("6/6  filming its attention")
    films = _film(run, out)
    page = DemoPage(
        pictures=[str(path.relative_to(out)) for path in pictures],
        films=[str(path.relative_to(out)) for path in films if path.suffix == ".mp4"],
        figures=[str(seen.files[name].relative_to(out)) for name in FIGURES],
        words=[*describe_differences(seen.measurements), *describe_parts(seen.measurements)],
        parts=str(next(path.relative_to(out) for path in films if path.suffix == ".png")),
        curves="run/curves.png",
        shipped=_row(shipped),
        trained=run.rows()[-1],
        steps=outcome.steps,
        seconds=_seconds(outcome),
    )
    with atomic_write(out / "index.html") as path:
        path.write_text(page.html(), encoding="utf-8")
    return out / "index.html"


def _claim(out: Path, options: dict[str, bool | int]) -> None:
    """Take a new or empty folder, or go on in one of the same demo."""
    marker = out / MARKER
    if marker.is_file():
        if json.loads(marker.read_text(encoding="utf-8")) != options:
            raise UserError(f"{out}: holds a demo with other options; give a new folder with --out")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is not empty and no demo of ours; give a new folder with --out")
    with atomic_write(marker) as path:
        path.write_text(json.dumps(options), encoding="utf-8")


def _detect(detector: Detector, source: str, out: Path) -> tuple[list[Path], Path]:
    """Annotated pictures of the test split, and the picture in which most was found."""
    folder = out / "detections"
    paths: list[Path] = []
    counts: dict[Path, int] = {}
    for image in open_dataset(source, "test").images:
        pixels = read_image(image.path)
        found = detector.detect(pixels, threshold=THRESHOLD)
        path = folder / f"{image.path.stem}.png"
        draw_detections(pixels, found, path, classes=detector.classes.names)
        paths.append(path)
        counts[image.path] = len(found)
    return paths, max(counts, key=lambda path: counts[path])


def _train(run: RunFolder, source: str, size: Size, seed: int) -> Outcome:
    """Train from scratch for as many steps as this machine takes in the time."""
    overrides: dict[str, Any] = {"data.source": source, "train.seed": seed, **size.overrides}
    each = measure_step(PRESET, overrides)
    steps = steps_within(size.seconds, each, size.most_steps, size.least_steps)
    overrides |= {"train.max_steps": steps, "train.epochs": -(-steps * BATCH // size.images)}
    return train(preset=PRESET, out=run.path, overrides=overrides)


def _film(run: RunFolder, out: Path) -> list[Path]:
    """The film of the training, the figure of attention on parts, and the queries of one picture."""
    paths = timelapse(run.path, out / "films")
    image = next(iter(load_recording(run.path).images))
    return [*paths, *timelapse(run.path, out / "films", view="queries", image=image)]


def _row(evaluation: Evaluation) -> dict[str, float | None]:
    return {f"val/{name}": value for name, value in evaluation.summary().items()}


def _seconds(outcome: Outcome) -> float:
    return sum(float(row["seconds"] or 0) for row in RunFolder(outcome.folder).rows())


def summary(page: Path) -> str:
    """What the demo left, for the terminal."""
    rows = RunFolder(page.parent / "run").rows()
    last = json.dumps(
        {k: round(v, 3) for k, v in rows[-1].items() if v is not None and k in ("val/AP", "val/AP50")}
    )
    return f"{page}: pictures, film and curves; the detector trained from scratch: {last}"
