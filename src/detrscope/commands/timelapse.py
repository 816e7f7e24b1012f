"""Films of a recorded training run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from detrscope.console import log, progress
from detrscope.core.errors import UserError, suggest_nearest
from detrscope.core.snapshot import Recording
from detrscope.explorer.run_page import RunPage, write_run_page
from detrscope.recording.recorder import load_recording
from detrscope.views.gif import write_gif
from detrscope.views.mp4 import write_mp4
from detrscope.views.part_curves import draw_part_curves
from detrscope.views.timelapse import FINAL, NAMES, FilmOptions, FilmSpec, films
from detrscope.views.timelapse.film_spec import AveragedQueries

FOLDER = "timelapse"  # in the run folder
PAGE = "run.html"
ALL = "all"
SECONDS = 12.0  # of a film, where its rate stays within limits
MIN_RATE, MAX_RATE = 2.0, 10.0  # snapshots a second
HOLD = 1.5  # seconds that the last snapshot stays


def timelapse(
    run: str | Path,
    out: str | Path | None = None,
    *,
    view: str | Sequence[str] = "final",
    image: str | None = None,
    query: int | None = None,
    layer: int = -1,
    queries: AveragedQueries = "detected",
    threshold: float = 0.4,
    site: str | None = None,
    fps: float | None = None,
    gif: bool = False,
    stills: bool = False,
    page: bool = True,
) -> list[Path]:
    """Film how attention changes in the probe images of a run.

    Args:
        run: run folder; it may still be training.
        out: folder to write to; None is `timelapse` in the run folder.
        view: `final`, `boxes`, `mean`, `plain`, `queries`, `features`, several of these, or `all`.
        image: name of one probe image; None is all of them.
        query: for the view `queries`: query index in the last snapshot, shown through all decoder layers.
        layer: decoder layer, the last by default.
        queries: queries whose attention is averaged: the detected ones, or all of the model.
        threshold: minimum score of a detected query, whose box is drawn.
        site: for the view `features`: the convolution of the backbone whose channels are shown.
        fps: snapshots a second; None is a film of about twelve seconds.
        gif: write each film as a GIF too.
        stills: write each frame as a PNG too, in a folder named like the film.
        page: write `run.html`, the page of the training, which opens from disk: a slider over its steps.

    Returns:
        Paths of the films and folders of stills, of the figure of attention on parts where it was measured, and of the
        page.

    Raises:
        UserError: a run without snapshots, or without such an image, query, layer or site.
    """
    views = _check_views([view] if isinstance(view, str) else view)
    for name, value, needed in (("query", query, "queries"), ("site", site, "features")):
        if value is not None and needed not in views:
            raise UserError(f"{name} {value}: only the view '{needed}' uses it; add '{needed}' to view")
    if fps is not None and not fps > 0:
        raise UserError(f"fps {fps:g}: expected more than 0")
    recording = load_recording(run)
    options = FilmOptions(image, layer, queries, threshold, query, site)
    options.check(recording)
    folder = Path(out) if out is not None else Path(run) / FOLDER
    if ALL in views:
        has_features = any(snapshot.features for snapshot in recording.steps[-1].snapshots.values())
        views = [name for name in NAMES if name != "features" or has_features]
    specs = [spec for name in views for spec in films(name, recording, options)]
    rate = fps or min(MAX_RATE, max(MIN_RATE, len(recording.steps) / SECONDS))
    paths = []
    with progress() as bar:
        task = bar.add_task("filming", total=sum(spec.frames for spec in specs))
        for spec in specs:
            bar.update(task, description=f"filming {spec.name}")
            paths += _write(spec, folder, rate, gif, lambda: bar.advance(task))
            if stills:
                paths.append(_write_stills(spec, folder, recording))
    if recording.attention and FINAL in views:
        path = folder / "parts.png"
        draw_part_curves(recording.attention, path, name=recording.name)
        paths.append(path)
    if page:
        paths.append(write_run_page([RunPage(recording, str(run))], folder / PAGE))
    for path in paths:
        log.info("wrote %s", path)
    return paths


def _write(
    spec: FilmSpec, folder: Path, rate: float, gif: bool, on_frame: Callable[[], object]
) -> list[Path]:
    """Write one film, and its GIF, atomically."""
    path = folder / f"{spec.name}.mp4"
    with ExitStack() as stack:
        add = stack.enter_context(write_mp4(path, rate))
        add_gif = stack.enter_context(write_gif(path.with_suffix(".gif"), rate)) if gif else None
        for index in range(spec.frames):
            pixels = spec.draw(index).pixels()
            for _ in range(1 if index + 1 < spec.frames else 1 + round(HOLD * rate)):
                add(pixels)
                if add_gif is not None:
                    add_gif(pixels)
            on_frame()
    return [path, path.with_suffix(".gif")] if gif else [path]


def _write_stills(spec: FilmSpec, folder: Path, recording: Recording) -> Path:
    """Write each frame of a film as a PNG named by its step; return their folder."""
    for index in range(spec.frames):
        spec.draw(index).save(folder / spec.name / f"step_{recording.steps[index].step:07d}.png")
    return folder / spec.name


def _check_views(views: Sequence[str]) -> list[str]:
    for name in views:
        if name not in (*NAMES, ALL):
            raise UserError(f"view '{name}' is not known; {suggest_nearest(name, (*NAMES, ALL))}")
    return list(dict.fromkeys(views))
