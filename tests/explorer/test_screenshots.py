"""The pictures of docs/page.md: made here, and with DETRSCOPE_SCREENSHOTS=docs/images written there.

DETRSCOPE_SCREENSHOTS=docs/images DETRSCOPE_RUN=detrscope-demo/run pytest tests/explorer/test_screenshots.py
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

from detrscope.commands.explore import explore
from detrscope.data.drawn_dogs import write_drawn
from detrscope.explorer.run_page import RunPage, write_run_page
from detrscope.recording.recorder import load_recording
from tests.explorer.conftest import Opened, served, until
from tests.support.recorded_run import record_run

WIDTH, HEIGHT = 1250, 900
FOLDER = os.environ.get("DETRSCOPE_SCREENSHOTS")
OUT = Path(FOLDER).resolve() if FOLDER else None


def shoot(page: Page, name: str) -> None:
    """Take a picture of the page; written to the docs where the environment says so."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    assert image.size == (WIDTH, HEIGHT)
    assert np.asarray(image).std() > 20  # something is on it
    if OUT is not None:
        image.save(OUT / f"{name}.jpg", quality=86)


def test_a_picture_before_and_after_an_edit(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_drawn(tmp_path / "dogs", count=6, seed=1)
    monkeypatch.chdir(tmp_path)
    with served(explore("dogs/images/000005.png")) as url:
        page = opened.page(WIDTH, HEIGHT)
        page.goto(url)
        page.wait_for_selector("html[data-ready]")
        shoot(page, "page-query")
        page.fill("#edit-text", "decoder.0.self: heads 1 x0")
        page.click("#edit-add")
        until(page, "detrscope.app.payload.header.edits.length === 1")
        page.evaluate("document.querySelector('#changes').scrollIntoView({block: 'end'})")
        shoot(page, "page-edit")


def test_two_steps_of_a_training(opened: Opened, tmp_path: Path) -> None:
    run = Path(os.environ["DETRSCOPE_RUN"]) if "DETRSCOPE_RUN" in os.environ else record_run(tmp_path, "run")
    recording = load_recording(run)
    path = write_run_page([RunPage(recording, "run")], tmp_path / "run.html")
    page = opened.page(WIDTH, HEIGHT)
    page.goto(f"{path.as_uri()}#otherRun=0&otherStep={len(recording.steps) // 4}")
    page.wait_for_selector("html[data-ready]")
    page.wait_for_selector("#before:not([hidden])")
    shoot(page, "page-run")
