"""The page live: serve pictures, traces and a model on this machine."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detrscope.commands.domain_warning import SHIPPED
from detrscope.commands.trace_provider import TraceInput, expand_trace_inputs, is_trace_input
from detrscope.core.edits import Edit
from detrscope.core.errors import UserError
from detrscope.core.trace_data import TraceData
from detrscope.data.image_reader import read_upright
from detrscope.inference.detector import Detector
from detrscope.inference.load_detector import LOAD_DEFAULTS, LoadOptions, open_detector
from detrscope.inference.packages import require_packages
from detrscope.trace_interface import Trace

if TYPE_CHECKING:
    from fastapi import FastAPI

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
    """Return a server of the page for images and traces, with a model behind it.

    Args:
        sources: images, folders, globs, URLs, and traces (x.trace); None opens the page without a picture.
        model: variant, checkpoint, run folder, Hugging Face folder or id, or a `Detector`; None is the shipped model,
            or no model where all sources are traces.
        host: address to listen on. Under another one than this machine's own the page's address has a token.
        port: port to listen on; 0 takes a free one.
        load_options: how to load a model that is given by name.

    Raises:
        UserError: a source or model that cannot be read, a port that is taken, or FastAPI is not installed.
    """
    require_packages("explore", "fastapi", "uvicorn", "python_multipart", extra="explore")
    from detrscope.explorer.server import Offer, create_app

    named = sources if isinstance(sources, list) else [] if sources is None else [sources]
    inputs = expand_trace_inputs(named) if named else []
    contents = {source.name: content for source, content in inputs}
    only_traces = bool(contents) and all(is_trace_input(content) for content in contents.values())
    detector = None
    if model is not None or not only_traces:
        detector = open_detector(model or SHIPPED, load_options)
    tracer = make_tracer(contents, detector)
    name = str(model) if isinstance(model, str | Path) else SHIPPED if model is None else "MODEL"
    port = _free_port(host, port)
    shown = f"[{host}]" if ":" in host else host
    local = host in LOOPBACK
    hosts = [f"{one}:{port}" for one in (shown, *(["127.0.0.1", "localhost", "[::1]"] if local else []))]
    offer = Offer(name, tuple(contents), tracer, detector is not None)
    app = create_app(offer, hosts=hosts, open_token=local)
    url = f"http://{shown}:{port}/" + ("" if local else f"?token={app.state.token}")
    return Explorer(app, url, host, port)


def make_tracer(
    contents: dict[str, TraceInput], detector: Detector | None
) -> Callable[[str | bytes, Sequence[Edit]], TraceData]:
    """Return the function that traces an offered picture by name, or the bytes of another.

    Args:
        contents: images and traces by name.
        detector: the model; None where there is none.
    """

    def trace(picture: str | bytes, edits: Sequence[Edit]) -> TraceData:
        content = contents[picture] if isinstance(picture, str) else picture
        stored: TraceData | None = None
        if isinstance(content, Trace):
            stored = content
        elif not isinstance(content, bytes) and is_trace_input(content):
            stored = Trace.load(str(content))
        if isinstance(content, Trace) or stored is not None:
            assert stored is not None
            if not edits:
                return stored
            if detector is None or stored.original is None:
                lacks = "no model is loaded" if detector is None else "the trace has no original picture"
                raise UserError(f"edits: {lacks}, so that nothing can be run")
            return detector.trace(stored.original, edits=edits)
        if detector is None:
            raise UserError("there is no model that could look at a new picture")
        image, _ = read_upright(content)
        if image.shape[1] * image.shape[2] > MAX_PIXELS:
            raise UserError(
                f"picture of {image.shape[2]} x {image.shape[1]} pixels: expected at most {MAX_PIXELS:,}"
            )
        return detector.trace(content, edits=edits)

    return trace


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
