"""The page live: serve pictures, traces, recorded trainings and a model on this machine."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrscope.checkpoints.load import RUN_CHECKPOINTS
from detrscope.commands.domain_warning import SHIPPED
from detrscope.commands.edits import swaps_from
from detrscope.commands.trace_provider import TraceInput, expand_trace_inputs, is_trace_input
from detrscope.core.download import is_url
from detrscope.core.errors import UserError
from detrscope.core.trace_data import TraceData
from detrscope.data.image_header import read_size
from detrscope.data.image_reader import ImageSource, read_image
from detrscope.explorer.payload import Payload
from detrscope.explorer.run_page import RunPage
from detrscope.inference.detector import Detector
from detrscope.inference.load_detector import LOAD_DEFAULTS, LoadOptions, open_detector
from detrscope.inference.packages import require_packages
from detrscope.recording.recorder import load_recording
from detrscope.trace_interface import Trace
from detrscope.training.run_folder import SNAPSHOTS, RunFolder

if TYPE_CHECKING:
    from fastapi import FastAPI

    from detrscope.explorer.requests import Tracer, TraceRequest

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_PIXELS = 50_000_000  # of an uploaded picture


@dataclass(frozen=True)
class Explorer:
    """A server that is ready to run.

    Attributes:
        app: the application.
        url: address of the page.
        host: address that it listens on.
        port: port that it listens on.
    """

    app: FastAPI
    url: str
    host: str
    port: int

    def run(self) -> None:
        """Serve until interrupted."""
        import uvicorn

        uvicorn.run(self.app, host=self.host, port=self.port, log_level="warning", access_log=False)


def explore(
    sources: TraceInput | list[TraceInput] | None = None,
    model: str | Path | Detector | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    load_options: LoadOptions = LOAD_DEFAULTS,
) -> Explorer:
    """Return a server of the page for images, traces and recorded trainings, with a model behind it.

    Args:
        sources: images, folders, globs, URLs, traces (x.trace), and run folders with snapshots; None opens the page
            without a picture.
        model: variant, checkpoint, run folder, Hugging Face folder or id, or a `Detector`; None is the model of the
            first run, else the shipped one, or no model where all sources are traces.
        host: address to listen on. Under another one than this machine's own the page's address has a token.
        port: port to listen on; 0 takes a free one.
        load_options: how to load a model that is given by name.

    Raises:
        UserError: a source or model that cannot be read, a run without snapshots, a port that is taken, or FastAPI is
            not installed.
    """
    require_packages("explore", "fastapi", "uvicorn", "python_multipart", extra="explore")
    from detrscope.explorer.requests import Offer
    from detrscope.explorer.server import create_app

    given = sources if isinstance(sources, list) else [] if sources is None else [sources]
    runs = tuple(LiveRun(Path(str(source))) for source in given if is_run_folder(source))
    named = [source for source in given if not is_run_folder(source)]
    inputs = expand_trace_inputs(named) if named else []
    contents = {source.name: content for source, content in inputs}
    only_traces = bool(contents) and all(is_trace_input(content) for content in contents.values())
    detector = None
    if runs:
        contents = {**_probe_pictures(runs), **contents}
        model = _trained_model(runs[0].path) if model is None else model
        only_traces = only_traces or not named
    if model is not None or not only_traces:
        detector = open_detector(model or SHIPPED, load_options)
    tracer = make_tracer(contents, detector)
    name = str(model) if isinstance(model, str | Path) else SHIPPED if model is None else "MODEL"
    port = _free_port(host, port)
    shown = f"[{host}]" if ":" in host else host
    local = host in LOOPBACK
    hosts = [f"{one}:{port}" for one in (shown, *(["127.0.0.1", "localhost", "[::1]"] if local else []))]
    offered = tuple(name for name, content in contents.items() if detector or is_trace_input(content))
    offer = Offer(name, offered, tracer, detector is not None, runs)
    app = create_app(offer, hosts=hosts, open_token=local)
    url = f"http://{shown}:{port}/" + ("" if local else f"?token={app.state.token}")
    return Explorer(app, url, host, port)


class LiveRun:
    """A recorded training on disk, read anew where it has gone on.

    Args:
        path: run folder.

    Raises:
        UserError: no snapshots, or they cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._page = self._read()

    @property
    def page(self) -> RunPage:
        """The training as it was read last."""
        return self._page

    def info(self) -> dict[str, Any]:
        """Return names, steps and curves as JSON values, as they are now."""
        if len(list((self.path / SNAPSHOTS).glob("step_*"))) != len(self._page.recording.steps):
            self._page = self._read()
        return self._page.info()

    def base(self, image: int) -> Payload:
        """Return a probe image without attention; see `RunPage.base`."""
        return self._page.base(image)

    def step(self, image: int, step: int) -> Payload:
        """Return a probe image at a snapshot; see `RunPage.step`."""
        return self._page.step(image, step)

    def _read(self) -> RunPage:
        return RunPage(load_recording(self.path), str(self.path))


def is_run_folder(source: TraceInput) -> bool:
    """Return whether a source is the folder of a training."""
    if not isinstance(source, str | Path):
        return False
    return RunFolder(source).in_use or (Path(source) / SNAPSHOTS).exists()


def _probe_pictures(runs: Sequence[LiveRun]) -> dict[str, TraceInput]:
    """Return the files of the probe images by name, of those that still are where they were."""
    pictures: dict[str, TraceInput] = {}
    for run in runs:
        for image in run.page.recording.images.values():
            if image.source and Path(image.source).is_file():
                pictures.setdefault(image.source, image.source)
    return pictures


def _trained_model(run: Path) -> Path | None:
    """Return the run folder where it has a checkpoint already."""
    return run if any((run / name).is_file() for name in RUN_CHECKPOINTS) else None


def make_tracer(contents: dict[str, TraceInput], detector: Detector | None) -> Tracer:
    """Return the function that traces an offered picture by name, or the bytes of another.

    Args:
        contents: images and traces by name.
        detector: the model; None where there is none.
    """

    def trace(request: TraceRequest) -> TraceData:
        content = _content(contents, request.picture)
        stored = _stored(content)
        if stored is not None and not (request.edits or request.swaps):
            return stored
        if detector is None:
            raise UserError(
                "there is no model that could look at a new picture"
                if stored is None
                else "edits: no model is loaded, so that nothing can be run"
            )
        image, edits = _image(content), [*request.edits]
        for site, part in request.swaps:
            assert request.other is not None
            other = detector.trace(_image(_content(contents, request.other)), values=True)
            edits += swaps_from(other, site, part, name="the other picture")
        return detector.trace(image, edits=edits)

    return trace


def _content(contents: dict[str, TraceInput], picture: str | bytes) -> TraceInput:
    return contents[picture] if isinstance(picture, str) else picture


def _stored(content: TraceInput) -> TraceData | None:
    """Return the trace that an input is; None where it is a picture."""
    if isinstance(content, Trace):
        return content
    return Trace.load(str(content)) if is_trace_input(content) else None


def _image(content: TraceInput) -> ImageSource:
    """Return the picture of an input: of a trace its original.

    Raises:
        UserError: a trace without its original, or a picture that cannot be read or is too large.
    """
    stored = _stored(content)
    if stored is not None:
        if stored.original is None:
            raise UserError("edits: the trace has no original picture, so that nothing can be run")
        return stored.original
    assert not isinstance(content, Trace)
    if isinstance(content, bytes | str | Path) and not is_url(content):
        size = read_size(content)  # before hundreds of megabytes are decoded
        width, height = size.width, size.height
    else:
        height, width = read_image(content).shape[1:]
    if width * height > MAX_PIXELS:
        raise UserError(f"picture of {width} x {height} pixels: expected at most {MAX_PIXELS:,}")
    return content


def _free_port(host: str, port: int) -> int:
    """Return a port that can be listened on.

    Raises:
        UserError: it is taken, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{host}:{port}: cannot be listened on ({reason}); choose another port") from None
