"""Every control of the page, by pointer and by keyboard; offline, in light and dark, on a phone and a wall."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from playwright.sync_api import Page

import detrscope as ds
from detrscope.core.classes import ClassTable
from detrscope.core.trace_data import TraceData
from tests.explorer.conftest import Opened, until
from tests.support.traces import detector_of, picture


@pytest.fixture(scope="module")
def trace() -> TraceData:
    return detector_of("deformable-detr-r50").trace(picture(60, 90))


@pytest.fixture(scope="module")
def dense() -> TraceData:
    return detector_of("detr-r18").trace(picture(60, 90))


def state(page: Page) -> dict:
    return page.evaluate("({...detrscope.app.state})")


def rounded(page: Page) -> dict:
    return {key: round(x, 2) if isinstance(x, float) else x for key, x in state(page).items()}


def caption(page: Page) -> str:
    return page.inner_text("#caption")


def pixels(page: Page) -> str:
    return page.evaluate("document.getElementById('stage').toDataURL()")


def at(page: Page, x: float, y: float) -> tuple[float, float]:
    """A point of the picture, 0..1, on the screen."""
    box = page.locator("#stage").bounding_box()
    assert box is not None
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def test_every_setting_changes_the_picture_and_the_caption(opened: Opened, trace: TraceData) -> None:
    page = opened.report(trace)
    seen = {pixels(page)}
    for selector, value in (("#head", "2"), ("#head", "max"), ("#level", "1"), ("#colours", "viridis")):
        page.select_option(selector, value)
        seen.add(pixels(page))
    assert "max of 4 heads" in caption(page) and "level 1" in caption(page)
    page.select_option('[data-state="norm"]', "peak")
    assert "colours from 0 to the peak" in caption(page)
    page.select_option('[data-state="norm"]', "one")
    assert "colours from 0 to 1" in caption(page)
    page.check('[data-state="cells"]')
    seen.add(pixels(page))
    page.uncheck('[data-state="points"]')
    seen.add(pixels(page))
    page.locator("#layer").fill("0")
    assert "decoder.0.cross" in caption(page) and page.inner_text("#layer-name") == "decoder.0.cross"
    page.locator('[data-state="opacity"]').fill("0.2")
    seen.add(pixels(page))
    page.check('[data-state="every"]')
    assert page.locator("#detections li").count() == trace.queries
    seen.add(pixels(page))
    page.locator('[data-state="threshold"]').fill("1")
    page.uncheck('[data-state="every"]')
    assert "nothing scores 1.00 or more" in page.inner_text("#detections")
    assert len(seen) >= 8


def test_a_point_is_clicked_followed_and_pinned(opened: Opened, dense: TraceData) -> None:
    page = opened.report(dense)
    page.check('input[value="point"]')
    assert "choose a point" in caption(page)
    page.mouse.move(*at(page, 0.3, 0.4))
    until(page, "detrscope.app.state.x > 0")
    first = caption(page)
    page.mouse.move(*at(page, 0.7, 0.6))
    until(page, "document.getElementById('caption').textContent.includes('(63,')")
    assert caption(page) != first and "encoder.1.self" in caption(page)
    page.mouse.click(*at(page, 0.7, 0.6))
    pinned = state(page)
    page.mouse.move(*at(page, 0.1, 0.1))
    assert state(page)["x"] == pytest.approx(pinned["x"]) and pinned["x"] == pytest.approx(63, abs=1)
    assert "weight" in page.inner_text("#under") and "times even" in page.inner_text("#under")
    page.check('input[value="incoming"]')
    assert "attention that the point gets" in caption(page)


def test_detections_are_hovered_and_picked(opened: Opened, dense: TraceData) -> None:
    page = opened.report(dense, hash="#threshold=0")
    rows = page.locator("#detections li")
    assert rows.count() == dense.queries
    chosen = caption(page)
    rows.nth(3).hover()
    until(page, "(old) => document.getElementById('caption').textContent !== old", chosen)
    hovered = caption(page)
    page.mouse.move(*at(page, 0.5, 0.99))
    page.mouse.move(1, 1)
    rows.nth(3).click()
    assert caption(page) == hovered and rows.nth(3).get_attribute("aria-current") == "true"
    query = int(rows.nth(3).get_attribute("data-query") or -1)
    assert state(page)["query"] == query
    page.check('input[value="queries"]')
    assert f"query {query}" in caption(page) and "decoder.1.self" in caption(page)


def test_the_page_works_by_keyboard_alone(opened: Opened, trace: TraceData) -> None:
    page = opened.report(trace, hash="#threshold=0")
    page.focus("#stage")
    press = page.keyboard.press
    press("[")
    assert state(page)["layer"] == 0
    press("]")
    assert state(page)["layer"] == 1
    press("h")
    press("h")
    assert state(page)["head"] == 1
    press("H")
    assert state(page)["head"] == "mean"
    press("l")
    assert state(page)["level"] == 0
    press("n")
    assert state(page)["query"] >= 0
    before = state(page)["query"]
    press("p")
    assert state(page)["query"] != before
    press("2")
    assert state(page)["kind"] == "point"
    press("ArrowRight")
    press("ArrowDown")
    x, y = state(page)["x"], state(page)["y"]
    press("ArrowRight")
    assert state(page)["x"] > x and state(page)["y"] == y
    press("+")
    assert page.evaluate("detrscope.app.stage.zoom.scale") == 1.5
    press("Shift+ArrowRight")
    assert page.evaluate("detrscope.app.stage.zoom.x") > 0
    press("0")
    assert page.evaluate("detrscope.app.stage.zoom.scale") == 1
    press("a")
    press("c")
    assert state(page)["every"] and state(page)["cells"]
    press("?")
    assert page.locator("#keys").is_visible() and "next layer" in page.inner_text("#keys")
    press("Escape")
    press(" ")
    until(page, "detrscope.app.playing")
    press(" ")
    assert page.evaluate("detrscope.app.playing") == 0
    page.focus("#detections li:nth-child(2)")
    press("Enter")
    assert state(page)["kind"] == "query"


def test_zoom_by_wheel_and_pan_by_drag(opened: Opened, dense: TraceData) -> None:
    page = opened.report(dense)
    page.mouse.move(*at(page, 0.5, 0.5))
    page.mouse.wheel(0, -400)
    until(page, "detrscope.app.stage.zoom.scale > 2")
    before = page.evaluate("detrscope.app.stage.zoom.x")
    page.mouse.down()
    page.mouse.move(*at(page, 0.3, 0.5), steps=4)
    page.mouse.up()
    assert page.evaluate("detrscope.app.stage.zoom.x") > before
    assert state(page)["kind"] == "query", "a drag is no click"


def test_heads_are_small_pictures_to_choose_from(opened: Opened, dense: TraceData) -> None:
    page = opened.report(dense)
    buttons = page.locator("#heads button")
    assert buttons.count() == 4
    buttons.nth(2).click()
    assert state(page)["head"] == 2 and "head 2 of 4" in caption(page)
    assert buttons.nth(2).get_attribute("aria-pressed") == "true"
    buttons.nth(2).click()
    assert state(page)["head"] == "mean"


def test_a_link_restores_the_view(opened: Opened, dense: TraceData) -> None:
    page = opened.report(dense)
    page.check('input[value="point"]')
    page.mouse.click(*at(page, 0.4, 0.4))
    page.select_option("#head", "3")
    page.click("#copy-link")
    link = page.input_value("#copied")
    again = opened.page()
    again.goto(link)
    again.wait_for_selector("html[data-ready]")
    assert caption(again) == caption(page) and rounded(again) == rounded(page)


@pytest.mark.parametrize(
    "hash", ["#head=abc&layer=99&kind=none&x=NaN", "#level=77&head=55&query=100000", "#=&&%"]
)
def test_links_that_do_not_fit_show_the_first_view(opened: Opened, dense: TraceData, hash: str) -> None:
    page = opened.report(dense, hash=hash)
    assert "decoder.1.cross" in caption(page)


def test_command_and_python_make_the_same_view(opened: Opened, tmp_path: Path) -> None:
    path = tmp_path / "it's a dog.png"
    Image.fromarray(picture(64, 80).permute(1, 2, 0).numpy()).save(path)
    detector = ds.load("sprint-dense-n", device="cpu")
    page = opened.report(detector.trace(path), hash="#query=2&layer=1&head=3")
    page.click("#copy-python")
    line = page.input_value("#copied")
    shown = eval(line.removesuffix(".show()"), {"ds": ds})
    assert (shown.selection.site, shown.selection.queries, shown.selection.head) == (
        "decoder.1.cross",
        (2,),
        3,
    )
    values = page.evaluate("Array.from(detrscope.app.looked.grid.values)")
    assert torch.allclose(torch.tensor(values), shown.values.flatten(), atol=1e-3)
    page.click("#copy-command")
    command = page.input_value("#copied")
    assert "--query 2 --layer 1 --head 3" in command and "'\\''" in command


def test_the_picture_is_saved_with_its_caption(opened: Opened, dense: TraceData, tmp_path: Path) -> None:
    page = opened.report(dense)
    with page.expect_download() as download:
        page.click("#save-png")
    download.value.save_as(tmp_path / "a.png")
    assert download.value.suggested_filename == "decoder.1.cross.png"
    with Image.open(tmp_path / "a.png") as image:
        width, height = page.evaluate("[detrscope.app.stage.canvas.width, detrscope.app.stage.canvas.height]")
        assert image.width == width and image.height > height


def test_names_are_text_everywhere(opened: Opened, dense: TraceData) -> None:
    evil = "<img src=x onerror=alert(1)>"
    classes = ClassTable(dense.classes.ids, tuple(f"</script>{n}{evil}\"'`" for n in range(3)))
    named = replace(dense, card=replace(dense.card, classes=classes), source=f"</script>{evil}.png")
    page = opened.report(named, hash="#threshold=0")
    assert evil in page.inner_text("#detections") and evil in page.inner_text("#title")
    assert page.locator("img").count() == 0


@pytest.mark.parametrize(("width", "height"), [(360, 640), (2560, 1440)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_from_a_phone_to_a_wall(
    opened: Opened, dense: TraceData, width: int, height: int, scheme: str
) -> None:
    page = opened.page(width, height)
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(opened.report(dense).url)
    page.wait_for_selector("html[data-ready]")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("#stage").bounding_box()
    assert box is not None and box["width"] / box["height"] == pytest.approx(90 / 60, rel=0.02)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != paper


def test_every_control_has_a_name(opened: Opened, dense: TraceData) -> None:
    page = opened.report(dense)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, canvas")].filter((e) =>
          e.offsetParent && !e.textContent.trim() && !e.getAttribute("aria-label") && !e.closest("label")
          && !(e.parentElement.textContent.trim())).map((e) => e.outerHTML)"""
    )
    assert nameless == []


def test_before_and_after_stand_side_by_side(opened: Opened) -> None:
    detector = detector_of("sprint-dense-n")
    before = detector.trace(picture(60, 90))
    after = detector.trace(picture(60, 90), edits=["decoder.*.cross: heads 0 x0"])
    page = opened.report(before, after, hash="#threshold=0")
    assert page.locator("#stage-before").is_visible()
    assert "decoder.*.cross: heads 0 x0" in page.inner_text("#about")
    assert "decoder.*.cross: heads 0 x0" in page.inner_text("#edits")
    rows = page.locator("#changes tr").count()
    assert rows > 1 and "IoU" in page.inner_text("#changes")
    assert not page.locator("#edit-tools").is_visible()
    page.select_option("#offered", "image 0")
    until(page, "!detrscope.app.payload.header.edits.length")
    assert not page.locator("#stage-before").is_visible()


def test_a_report_says_what_it_leaves_out(opened: Opened, trace: TraceData, tmp_path: Path) -> None:
    from detrscope.explorer.report import write_report

    path = tmp_path / "small.html"
    left_out = write_report([trace], path, max_bytes=40_000)
    assert left_out and all(site.startswith("encoder") for site in left_out)
    page = opened.page()
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    assert left_out[0] in page.inner_text("#about")
    assert "decoder.1.cross" in caption(page)
