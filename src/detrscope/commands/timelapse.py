"""Films of a training that was watched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from detrscope.console import log, progress
from detrscope.core.errors import UserError, nearest
from detrscope.recording.recorder import load_recording
from detrscope.views.gif import gif as gif_film
from detrscope.views.mp4 import film
from detrscope.views.part_curves import draw_part_curves
from detrscope.views.timelapse import FILMS, FilmOptions, FilmSpec
from detrscope.views.timelapse.film_spec import Over

FOLDER = "timelapse"  # in the run folder
ALL = "all"
SECONDS = 12.0  # that a film is made to last, where its rate stays within limits
SLOWEST, FASTEST = 2.0, 10.0  # moments a second
HOLD = 1.5  # seconds that the last moment stays


def timelapse(
    run: str | Path,
    out: str | Path | None = None,
    *,
    view: str | Sequence[str] = "final",
    image: str | None = None,
    query: int | None = None,
    layer: int = -1,
    over: Over = "found",
    threshold: float = 0.4,
    site: str | None = None,
    fps: float | None = None,
    gif: bool = False,
) -> list[Path]:
    """Film how attention grew in the probe images of a run.

    Args:
        run: a run folder; it may still be training.
        out: the folder to write to; `timelapse` in the run folder where None.
        view: `final`, `boxes`, `merged`, `plain`, `queries`, `features`, several of these, or `all`.
        image: the name of one probe image; None for all.
        query: for the view `queries`: only the one with this number in the last look, through all decoder layers.
        layer: of the decoder, counted from the end where negative.
        over: merge attention over the queries that found something, or over all of the model.
        threshold: the least score of a query that counts as found, and whose box is drawn.
        site: for the view `features`: the channels of this convolution of the backbone.
        fps: moments a second; None for a film of about twelve seconds.
        gif: write each film as a GIF too.

    Returns:
        The films, and the figure of attention on parts where it was measured.

    Raises:
        UserError: the run was not watched, or has no such image, query, layer or site.
    """
    views = _views([view] if isinstance(view, str) else view)
    _refuse_useless(views, query, site)
    if fps is not None and not fps > 0:
        raise UserError(f"fps {fps:g}: expected more than 0")
    watched = load_recording(run)
    choice = FilmOptions.of(watched, image, layer, over, threshold, query, site)
    folder = Path(out) if out is not None else Path(run) / FOLDER
    has_features = any(look.features for look in watched.moments[-1].looks.values())
    if ALL in views:
        views = [name for name in FILMS if name != "features" or has_features]
    reels = [reel for name in views for reel in FILMS[name](watched, choice)]
    rate = fps or min(FASTEST, max(SLOWEST, len(watched.moments) / SECONDS))
    paths = []
    with progress() as bar:
        task = bar.add_task("filming", total=sum(reel.frames for reel in reels))
        for reel in reels:
            bar.update(task, description=f"filming {reel.name}")
            paths += _written(reel, folder, rate, gif, lambda: bar.advance(task))
    if watched.attention and "final" in views:
        path = folder / "parts.png"
        draw_part_curves(watched.attention, path, name=watched.name)
        paths.append(path)
    for path in paths:
        log.info("wrote %s", path)
    return paths


def _written(
    reel: FilmSpec, folder: Path, rate: float, gif: bool, on_frame: Callable[[], object]
) -> list[Path]:
    """One film, whole or not at all, and its GIF."""
    path = folder / f"{reel.name}.mp4"
    with ExitStack() as stack:
        add = stack.enter_context(film(path, rate))
        add_gif = stack.enter_context(gif_film(path.with_suffix(".gif"), rate)) if gif else None
        for index in range(reel.frames):
            pixels = reel.draw(index).pixels()
            for _ in range(1 if index + 1 < reel.frames else 1 + round(HOLD * rate)):
                add(pixels)
                if add_gif is not None:
                    add_gif(pixels)
            on_frame()
    return [path, path.with_suffix(".gif")] if gif else [path]


def _views(given: Sequence[str]) -> list[str]:
    for name in given:
        if name not in (*FILMS, ALL):
            raise UserError(f"view '{name}' is not known; {nearest(name, (*FILMS, ALL))}")
    return list(dict.fromkeys(given))


def _refuse_useless(views: Sequence[str], query: int | None, site: str | None) -> None:
    """Refuse an option that none of the views asked for would use."""
    for option, value, view in (("query", query, "queries"), ("site", site, "features")):
        if value is not None and view not in views:
            raise UserError(f"--{option} is for the view '{view}': add --view {view}")
