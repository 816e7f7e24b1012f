"""The page live: a server on this machine that traces pictures and applies edits.

It answers `/`, the page, `/api/trace`, a payload, and `/api/snapshot`, one of a training. A request names a picture by
the names that were offered, a snapshot by numbers; no part of it becomes a path.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException

from detrscope.core.edit_file import edits_from_json
from detrscope.core.edits import Edit
from detrscope.core.errors import UserError, in_one_line
from detrscope.core.trace_data import TraceData
from detrscope.explorer.bundle import page_html
from detrscope.explorer.payload import Payload, trace_payload

log = logging.getLogger("detrscope.explorer")
T = TypeVar("T")
MAX_UPLOAD = 32 << 20  # bytes of a picture
MAX_EDITS_TEXT = 1 << 20  # characters
MAX_EDITS = 200
MAX_WAITING = 8  # requests that may wait for the model
CANCELLED = 499  # status of a request that nobody waits for any more
LIVE_BYTES = 600_000_000  # of the records of an image: nothing is stored, and the browser is on this machine
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Picture = str | bytes  # a name that was offered, or an uploaded file
SWAP = re.compile(r"swap\s+(\S+)(?:\s+(\S+))?")  # site, and part of its attention
SNAPSHOT = re.compile(r"([0-9]{1,6}) ([0-9]{1,6})(?: ([0-9]{1,6}))?")  # run, image, and step


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        picture: picture to trace.
        edits: edits of the model.
        swaps: sites, and parts of their attention, that take those of another picture.
        other: the other picture.
    """

    picture: Picture
    edits: tuple[Edit, ...] = ()
    swaps: tuple[tuple[str, str | None], ...] = ()
    other: Picture | None = None


Tracer = Callable[[Asked], TraceData]


class ShownRun(Protocol):
    """A recorded training that the server offers."""

    def info(self) -> dict[str, Any]:
        """Return names, steps and curves as JSON values, as they are now."""

    def base(self, image: int) -> Payload:
        """Return a probe image without attention."""

    def step(self, image: int, step: int) -> Payload:
        """Return a probe image at a snapshot."""


@dataclass(frozen=True)
class Offer:
    """What the server offers.

    Attributes:
        model: name of the model, for the commands that the page gives.
        names: pictures and traces by name.
        tracer: traces one of them, or an uploaded file, with edits and swaps.
        can_edit: whether there is a model, which can open other pictures and apply edits.
        runs: recorded trainings, read anew where they go on.
    """

    model: str
    names: tuple[str, ...]
    tracer: Tracer
    can_edit: bool
    runs: tuple[ShownRun, ...] = ()


class Turns:
    """One inference at a time; the others wait, a few of them."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._inside = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the model.

        Raises:
            HTTPException: too many are waiting.
        """
        if self._inside >= MAX_WAITING:
            raise HTTPException(503, f"busy: {MAX_WAITING} requests are waiting; try again")
        self._inside += 1
        try:
            async with self._lock:
                yield
        finally:
            self._inside -= 1


def create_app(offer: Offer, *, hosts: Sequence[str], token: str = "", open_token: bool = True) -> FastAPI:
    """Return the server.

    Args:
        offer: pictures and model.
        hosts: values of the `Host` header that are answered, such as `127.0.0.1:8008`: a page elsewhere that makes a
            name of its own mean this machine is refused.
        token: what every request to the API must show; made up if empty.
        open_token: give the page to everybody who reaches it; otherwise its address must have `?token=`.
    """
    token = token or secrets.token_urlsafe(24)
    app = FastAPI(title="detrscope explore", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.token = token
    turns = Turns()

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        number = secrets.token_hex(4)
        problem = _refusal(request, hosts)
        if problem is not None:
            response: Response = JSONResponse({"detail": problem}, 403)
        else:
            try:
                response = await call_next(request)
            except Exception as error:  # a bug, which the log shows and the answer does not
                log.exception("request %s failed", number)
                response = JSONResponse({"detail": f"request {number}: {type(error).__name__}"}, 500)
        response.headers.update({**HEADERS, "X-Request-Id": number})
        log.info("request %s: %s %s: %d", number, request.method, request.url.path, response.status_code)
        return response

    @app.get("/", response_class=HTMLResponse)
    async def page(request: Request) -> HTMLResponse:
        if not open_token and not _same(request.query_params.get("token", ""), token):
            raise HTTPException(403, "the address needs the token that `detrscope explore` printed")
        info = {"model": offer.model, "token": token, "offered": offer.names, "canEdit": offer.can_edit}
        if offer.runs:
            info["runs"] = await _answer(lambda: [run.info() for run in offer.runs])
        return HTMLResponse(page_html(f"detrscope: {offer.model}", [], {"server": info}, connect="'self'"))

    def check_token(request: Request) -> None:
        if not _same(request.headers.get("x-detrscope-token", ""), token):
            raise HTTPException(403, "wrong token; reload the page")

    @app.get("/api/snapshot")
    async def snapshot(request: Request) -> Response:
        check_token(request)
        match = SNAPSHOT.fullmatch(request.query_params.get("name", ""))
        if match is None or int(match[1]) >= len(offer.runs):
            raise HTTPException(422, "this snapshot was not offered")
        run, image, step = offer.runs[int(match[1])], int(match[2]), match[3]
        data = await _answer(
            lambda: (run.base(image) if step is None else run.step(image, int(step))).to_bytes()
        )
        return Response(data, media_type="application/octet-stream")

    @app.post("/api/trace")
    async def trace(request: Request) -> Response:
        check_token(request)
        asked = await _asked(request, offer)
        async with turns.turn():
            if await request.is_disconnected():  # cancelled while it waited
                raise HTTPException(CANCELLED, "cancelled")
            data = await _answer(lambda: _traced(offer.tracer, asked))
        return Response(data, media_type="application/octet-stream")

    return app


async def _answer(work: Callable[[], T]) -> T:
    """Return what some work gives, done in a thread.

    Raises:
        HTTPException: what the work says is wrong with the request.
    """
    try:
        return await run_in_threadpool(work)
    except Exception as error:
        told = in_one_line(error)
        if told is None:
            raise
        raise HTTPException(422, told[0]) from None


def _traced(tracer: Tracer, asked: Asked) -> bytes:
    return trace_payload(tracer(asked), max_bytes=LIVE_BYTES).to_bytes()


async def _asked(request: Request, offer: Offer) -> Asked:
    """Return what a request asks for.

    Raises:
        HTTPException: a form that is not one, too large, or names what was not offered.
    """
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise HTTPException(411, "expected a length of the request")
    if int(length) > 2 * MAX_UPLOAD + MAX_EDITS_TEXT:
        raise HTTPException(413, f"expected a picture of at most {MAX_UPLOAD >> 20} MiB")
    try:
        async with request.form(max_files=2, max_fields=4, max_part_size=MAX_UPLOAD) as form:
            picture = await _picture_in(form, offer, "name", "file")
            if picture is None:
                raise HTTPException(422, "expected a name of an offered picture, or a file")
            texts = _edit_texts_in(form.get("edits", "[]"))
            swaps = [match for text in texts if (match := SWAP.fullmatch(text.strip()))]
            edits = [text for text in texts if not SWAP.fullmatch(text.strip())]
            other = await _picture_in(form, offer, "other_name", "other_file")
            if swaps and other is None:
                raise HTTPException(422, "swap: expected the other picture, a name or a file")
            return Asked(picture, _edits_of(edits), tuple((match[1], match[2]) for match in swaps), other)
    except (MultiPartException, UnicodeDecodeError) as error:
        raise HTTPException(422, f"the form cannot be read ({error})") from None


async def _picture_in(form: FormData, offer: Offer, name_field: str, file_field: str) -> Picture | None:
    """Return the picture that a form names or has in it; None where it has neither, or both.

    Raises:
        HTTPException: a name that was not offered, or a file where there is no model.
    """
    name, file = form.get(name_field), form.get(file_field)
    if (name is None) == (file is None):
        return None
    if isinstance(file, UploadFile):
        if not offer.can_edit:
            raise HTTPException(422, "there is no model here that could look at a new picture")
        data = await file.read(MAX_UPLOAD + 1)
        if len(data) > MAX_UPLOAD:
            raise HTTPException(413, f"expected a picture of at most {MAX_UPLOAD >> 20} MiB")
        return data
    if isinstance(name, str) and name in offer.names:
        return name
    raise HTTPException(422, "this picture was not offered")


def _edit_texts_in(text: object) -> list[str]:
    """Return the texts of the edits of a request.

    Raises:
        HTTPException: other than a list of texts in the grammar.
    """
    if not isinstance(text, str) or len(text) > MAX_EDITS_TEXT:
        raise HTTPException(422, f"edits: expected JSON of at most {MAX_EDITS_TEXT} characters")
    try:
        tree: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise HTTPException(422, "edits: not JSON") from None
    if not isinstance(tree, list) or len(tree) > MAX_EDITS or not all(isinstance(one, str) for one in tree):
        raise HTTPException(422, f"edits: expected a list of at most {MAX_EDITS} texts")
    return tree


def _edits_of(texts: Sequence[str]) -> tuple[Edit, ...]:
    """Return the edits of texts in the grammar of `core.edit_text`.

    Raises:
        HTTPException: a text that is not in the grammar.
    """
    try:
        return edits_from_json([*texts], "edits")
    except UserError as error:
        raise HTTPException(422, str(error)) from None


def _refusal(request: Request, hosts: Sequence[str]) -> str | None:
    """Return why a request is not answered: it names another host, or comes from a page of another origin."""
    host = request.headers.get("host", "")
    if host not in hosts:
        return "this server answers under its own address only"
    origin = request.headers.get("origin")
    if origin is not None and origin not in (f"http://{host}", "null" if request.method == "GET" else ""):
        return "requests of other pages are not answered"
    return None


def _same(given: str, expected: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())
