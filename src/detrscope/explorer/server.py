"""The page live: a server on this machine that traces pictures and applies edits.

It answers `/`, the page, and `/api/trace`, a payload. A request names a picture only by the names that were offered; no
part of it becomes a path.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException

from detrscope.core.edit_file import edits_from_json
from detrscope.core.edits import Edit
from detrscope.core.errors import UserError, in_one_line
from detrscope.core.trace_data import TraceData
from detrscope.explorer.bundle import page_html
from detrscope.explorer.payload import trace_payload

log = logging.getLogger("detrscope.explorer")
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
Tracer = Callable[[Picture, Sequence[Edit]], TraceData]


@dataclass(frozen=True)
class Offer:
    """What the server offers.

    Attributes:
        model: name of the model, for the commands that the page gives.
        names: pictures and traces by name.
        tracer: traces one of them, or an uploaded file, with edits.
        can_edit: whether there is a model, which can open other pictures and apply edits.
    """

    model: str
    names: tuple[str, ...]
    tracer: Tracer
    can_edit: bool


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
        return HTMLResponse(page_html(f"detrscope: {offer.model}", [], {"server": info}, connect="'self'"))

    @app.post("/api/trace")
    async def trace(request: Request) -> Response:
        if not _same(request.headers.get("x-detrscope-token", ""), token):
            raise HTTPException(403, "wrong token; reload the page")
        picture, edits = await _asked(request, offer)
        async with turns.turn():
            if await request.is_disconnected():  # cancelled while it waited
                raise HTTPException(CANCELLED, "cancelled")
            try:
                data = await run_in_threadpool(_traced, offer.tracer, picture, edits)
            except Exception as error:
                told = in_one_line(error)
                if told is None:
                    raise
                raise HTTPException(422, told[0]) from None
        return Response(data, media_type="application/octet-stream")

    return app


def _traced(tracer: Tracer, picture: Picture, edits: Sequence[Edit]) -> bytes:
    return trace_payload(tracer(picture, edits), max_bytes=LIVE_BYTES).to_bytes()


async def _asked(request: Request, offer: Offer) -> tuple[Picture, tuple[Edit, ...]]:
    """Return the picture and the edits of a request.

    Raises:
        HTTPException: a form that is not one, too large, or names what was not offered.
    """
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise HTTPException(411, "expected a length of the request")
    if int(length) > MAX_UPLOAD + MAX_EDITS_TEXT:
        raise HTTPException(413, f"expected a picture of at most {MAX_UPLOAD >> 20} MiB")
    try:
        async with request.form(max_files=1, max_fields=4, max_part_size=MAX_UPLOAD) as form:
            name, file, text = form.get("name"), form.get("file"), form.get("edits", "[]")
            if (name is None) == (file is None):
                raise HTTPException(422, "expected a name of an offered picture, or a file")
            picture: Picture
            if isinstance(file, UploadFile):
                if not offer.can_edit:
                    raise HTTPException(422, "there is no model here that could look at a new picture")
                picture = await file.read(MAX_UPLOAD)
            elif isinstance(name, str) and name in offer.names:
                picture = name
            else:
                raise HTTPException(422, "this picture was not offered")
            return picture, _edits_in(text)
    except (MultiPartException, UnicodeDecodeError) as error:
        raise HTTPException(422, f"the form cannot be read ({error})") from None


def _edits_in(text: object) -> tuple[Edit, ...]:
    """Return the edits of a request.

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
    try:
        return edits_from_json(tree, "edits")
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
