"""The demo: detect with the shipped model, see inside it, train a model from scratch, film its attention."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrscope.commands.evaluate import evaluate
from detrscope.commands.figure_files import REPORT
from detrscope.commands.see import see
from detrscope.commands.timelapse import PAGE, timelapse
from detrscope.commands.train import train
from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.core.files import atomic_write
from detrscope.data.image_reader import read_image
from detrscope.data.open_dataset import open_dataset
from detrscope.inference.detector import Detector
from detrscope.inference.load_detector import load
from detrscope.lens.report import report_attention_differences, report_attention_on_parts
from detrscope.recording.recorder import load_recording
from detrscope.training.outcome import Outcome
from detrscope.training.run_folder import RunFolder
from detrscope.training.time_budget import measure_step, steps_within
from detrscope.views.demo_page import DemoPage
from detrscope.views.detection_image import draw_detections
from detrscope.views.options import ViewOptions

MODEL = "sprint-dense-n"
PRESET = "drawn-dogs"
THRESHOLD = 0.4
FIGURES = ("per-query", "encoder", "heads", "relevance", "metrics")  # on the page
MARKER = "demo.json"  # holds the options of the demo in a folder


@dataclass(frozen=True)
class DemoSize:
    """Numbers of images and training steps."""

    train: int  # images
    val: int
    test: int
    seconds: float  # of training, between the numbers of steps below
    most_steps: int
    least_steps: int  # with fewer steps the model does not learn
    overrides: dict[str, int]  # training settings


FULL = DemoSize(2000, 300, 12, 200.0, 1300, 800, {})
QUICK = DemoSize(240, 60, 6, 30.0, 100, 60, {"train.evaluate_every": 3, "train.recording.every": 10})
BATCH = 16  # batch size of the preset


def demo(out: str | Path = "detrscope-demo", *, quick: bool = False, seed: int = 0) -> Path:
    """Draw dogs, detect them, see inside, evaluate, train from scratch, film the training, and write a page of it.

    After an interruption, call it again to continue.

    Args:
        out: output folder.
        quick: run under a minute, to see that everything works; the trained detector learns little.
        seed: random seed of the training.

    Returns:
        Path of the page, `index.html`.

    Raises:
        UserError: `out` holds something else, or a demo with other options.
        WorkFailed: training met a non-finite number.
    """
    out = Path(out)
    size = QUICK if quick else FULL
    _prepare_folder(out, {"quick": quick, "seed": seed})
    source = f"drawn-dogs:count={size.train},val={size.val},test={size.test},size=128"
    log.info("1/6  drawing %d images (once; they stay in the cache)", size.train + size.val + size.test)
    for split in ("train", "val", "test"):
        open_dataset(source, split)
    log.info("2/6  detecting in %d images that the shipped model was not trained on", size.test)
    detector = load(MODEL, device="cpu")
    images, richest = _detect(detector, source, out)
    log.info("3/6  seeing inside that model: all figures of %s", richest.name)
    (result,) = see(
        richest,
        detector,
        options=ViewOptions(threshold=THRESHOLD),
        ground_truth=source,
        split="test",
        out=out / "seen",
    )
    log.info("4/6  evaluating the shipped model on %d images", size.val)
    shipped = evaluate(MODEL, source, split="val", batch_size=16)
    log.info("5/6  training a model from scratch")
    run = RunFolder(out / "run")
    outcome = train(out=run.path, resume=True) if run.in_use else _train(run, source, size, seed)
    log.info("6/6  filming its attention")
    films = _film(run, out)
    page = DemoPage(
        detection_images=[str(path.relative_to(out)) for path in images],
        films=[str(path.relative_to(out)) for path in films if path.suffix == ".mp4"],
        figures=[str(result.files[name].relative_to(out)) for name in FIGURES],
        findings=[
            *report_attention_differences(result.measurements),
            *report_attention_on_parts(result.measurements),
        ],
        parts=str(next(path.relative_to(out) for path in films if path.suffix == ".png")),
        run=str(next(path.relative_to(out) for path in films if path.suffix == ".html")),
        curves="run/curves.png",
        shipped={f"val/{name}": value for name, value in shipped.summary().items()},
        trained=run.rows()[-1],
        steps=outcome.steps,
        seconds=sum(float(row["seconds"] or 0) for row in run.rows()),
        report=str(result.files[REPORT].relative_to(out)),
    )
    with atomic_write(out / "index.html") as path:
        path.write_text(page.html(), encoding="utf-8")
    return out / "index.html"


def _prepare_folder(out: Path, options: dict[str, bool | int]) -> None:
    """Mark a new or empty folder as one of this demo, or check that it is."""
    marker = out / MARKER
    if marker.is_file():
        if json.loads(marker.read_text(encoding="utf-8")) != options:
            raise UserError(f"{out}: holds a demo with other options; choose a new out folder")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is not empty and not a demo; choose a new out folder")
    with atomic_write(marker) as path:
        path.write_text(json.dumps(options), encoding="utf-8")


def _detect(detector: Detector, source: str, out: Path) -> tuple[list[Path], Path]:
    """Write the test images with boxes; return their paths, and the image with most detections."""
    folder = out / "detections"
    paths: list[Path] = []
    counts: dict[Path, int] = {}
    for image in open_dataset(source, "test").images:
        pixels = read_image(image.path)
        detections = detector.detect(pixels, threshold=THRESHOLD)
        path = folder / f"{image.path.stem}.png"
        draw_detections(pixels, detections, path, classes=detector.classes.names)
        paths.append(path)
        counts[image.path] = len(detections)
    return paths, max(counts, key=lambda path: counts[path])


def _train(run: RunFolder, source: str, size: DemoSize, seed: int) -> Outcome:
    """Train from scratch for the steps that fit into the time."""
    overrides: dict[str, Any] = {"data.source": source, "train.seed": seed, **size.overrides}
    step_seconds = measure_step(PRESET, overrides)
    steps = steps_within(size.seconds, step_seconds, size.most_steps, size.least_steps)
    overrides |= {"train.max_steps": steps, "train.epochs": -(-steps * BATCH // size.train)}
    return train(preset=PRESET, out=run.path, overrides=overrides)


def _film(run: RunFolder, out: Path) -> list[Path]:
    """Write the film of the training, the figure of attention on parts, its page, and a film of one image's queries."""
    paths = timelapse(run.path, out / "films")
    image = next(iter(load_recording(run.path).images))
    return [*paths, *timelapse(run.path, out / "films", view="queries", image=image, page=False)]


def demo_summary(page: Path) -> list[str]:
    """Return the results of a demo, and how to open its pages, as lines."""
    rows = RunFolder(page.parent / "run").rows()
    last = json.dumps(
        {k: round(v, 3) for k, v in rows[-1].items() if v is not None and k in ("val/AP", "val/AP50")}
    )
    folder = page.parent
    return [
        f"{page}: images, films and curves; the detector trained from scratch: {last}",
        f"open {page} in a browser; its pages to explore: {folder / 'films' / PAGE}, {folder / 'seen' / REPORT}",
        f"detrscope explore {folder / 'run'} opens the training live, with the trained model behind it",
    ]
