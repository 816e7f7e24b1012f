"""A headless browser: Debian's chromium by Playwright; tests that need it are skipped by name where it is missing."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from detrscope.commands.explore import Explorer
from detrscope.core.trace_data import TraceData
from detrscope.explorer.report import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def until(page: Page, expression: str, argument: object = None, seconds: float = 20) -> None:
    """Wait for an expression to hold; Playwright's own way needs eval, which the page's policy forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression, argument):
        assert time.monotonic() < deadline, f"never: {expression}"
        page.wait_for_timeout(20)


@contextmanager
def served(explorer: Explorer) -> Iterator[str]:
    """Serve a live page; yield its address."""
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(explorer.app, host=explorer.host, port=explorer.port, log_level="warning")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield explorer.url
    finally:
        server.should_exit = True
        thread.join()


class Opened:
    """Pages that a test opened, with what went wrong on them and what they asked the network for."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self.browser, self.folder = browser, folder
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.pages: list[Page] = []

    def page(self, width: int = 1300, height: int = 900) -> Page:
        page = self.browser.new_page(viewport={"width": width, "height": height})
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        page.on("request", lambda request: self.requests.append(request.url))
        self.pages.append(page)
        return page

    def report(self, *traces: TraceData, width: int = 1300, height: int = 900, hash: str = "") -> Page:
        path = self.folder / f"report-{len(self.pages)}.html"
        write_report(traces, path)
        page = self.page(width, height)
        page.goto(path.as_uri() + hash)
        page.wait_for_selector("html[data-ready]")
        return page


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Opened]:
    """Opens reports; no page may have an error, or ask for anything but itself."""
    opened = Opened(browser, tmp_path)
    yield opened
    for page in opened.pages:
        page.close()
    assert not opened.errors
    assert all(url.startswith(("file:", "blob:", "data:", "http://127.0.0.1:")) for url in opened.requests)
