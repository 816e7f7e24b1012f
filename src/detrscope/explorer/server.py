"""The page live: a server on this machine that traces pictures and applies edits.

It answers `/`, the page, `/api/trace`, a payload, and `/api/snapshot`, one of a training. A request names a picture by
the names that were offered, a snapshot by numbers; no part of it becomes a path.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.concurrency import run_in_threadpool

from detrscope.core.errors import in_one_line
from detrscope.explorer.bundle import page_html
from detrscope.explorer.payload import trace_payload
from detrscope.explorer.requests import Offer, Tracer, TraceRequest, read_form

log = logging.getLogger("detrscope.explorer")
T = TypeVar("T")
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
SNAPSHOT = re.compile(r"([0-9]{1,6}) ([0-9]{1,6})(?: ([0-9]{1,6}))?")  # run, image, and step


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
        form = await read_form(request, offer)
        async with turns.turn():
            if await request.is_disconnected():  # cancelled while it waited
                raise HTTPException(CANCELLED, "cancelled")
            data = await _answer(lambda: _traced(offer.tracer, form))
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
        message = in_one_line(error)
        if message is None:
            raise
        raise HTTPException(422, message[0]) from None


def _traced(tracer: Tracer, request: TraceRequest) -> bytes:
    return trace_payload(tracer(request), max_bytes=LIVE_BYTES).to_bytes()


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
