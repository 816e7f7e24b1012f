"""The page of a training: every snapshot, its curves, two of them side by side; as a file and live."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page
from starlette.testclient import TestClient

from detrscope.commands.explore import Explorer, explore
from detrscope.core.errors import UserError
from detrscope.core.snapshot import Recording
from detrscope.explorer.run_page import RunPage, write_run_page
from detrscope.lens.maps import map_of_cross_attention
from detrscope.recording.recorder import load_recording
from tests.explorer.conftest import Opened, served, until
from tests.support.recorded_run import record_run

MODELS = ("sprint-deformable-n", "sprint-dense-n")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: record_run(folder, name, model__variant=name, train__epochs=3, train__evaluate_every=1)
        for name in MODELS
    }


@pytest.fixture(scope="module")
def recordings(runs: dict[str, Path]) -> dict[str, Recording]:
    return {name: load_recording(path) for name, path in runs.items()}


def open_runs(opened: Opened, *recordings: Recording, hash: str = "", width: int = 1300) -> Page:
    path = opened.folder / f"run-{len(opened.pages)}.html"
    write_run_page([RunPage(recording, recording.name) for recording in recordings], path)
    page = opened.page(width)
    page.goto(path.as_uri() + hash)
    page.wait_for_selector("html[data-ready]")
    return page


def step_of(page: Page) -> int:
    return int(page.evaluate("detrscope.app.payload.header.notes.step"))


def to_step(page: Page, index: int, step: int, slider: str = "#step") -> None:
    page.locator(slider).fill(str(index))
    if slider == "#step":
        until(page, f"detrscope.app.payload.header.notes.step === {step}")
    else:
        until(page, f"detrscope.app.left?.header.notes.step === {step}")


@pytest.mark.parametrize("name", MODELS)
def test_maps_of_every_snapshot_equal_pythons(
    opened: Opened, recordings: dict[str, Recording], name: str
) -> None:
    recording = recordings[name]
    page = open_runs(opened, recording)
    image = next(iter(recording.images))
    for index, step in enumerate(recording.steps):
        to_step(page, index, step.step)
        trace = step.snapshots[image].trace(recording.images[image])
        assert page.evaluate("detrscope.app.payload.header.numbers") == (
            step.snapshots[image].query_ids.tolist()
        )
        for layer, site in enumerate(trace.records):
            rows = page.evaluate(
                "name => { const { payload } = detrscope.app, site = payload.site(name);"
                " return Array.from({ length: site.queries }, (_, q) => [...detrscope.mergeHeads("
                "detrscope.attentionRow(payload, site, q), 'mean')]); }",
                site,
            )
            for query in range(trace.queries):
                expected = torch.cat(
                    [part.flatten() for part in map_of_cross_attention(trace, query, layer).parts]
                )
                torch.testing.assert_close(torch.tensor(rows[query]), expected, rtol=2e-3, atol=2e-4)


def test_all_queries_together_are_the_mean_over_the_models_queries(
    opened: Opened, recordings: dict[str, Recording]
) -> None:
    recording = recordings[MODELS[0]]
    page = open_runs(opened, recording)
    page.check('input[name="kind"][value="mean"]')
    snapshot = recording.steps[-1].snapshots[next(iter(recording.images))]
    expected = [*snapshot.mean_rows.values()][-1].float()
    row = torch.tensor(page.evaluate("[...detrscope.app.looked.row]"))
    torch.testing.assert_close(row, expected, rtol=1e-3, atol=1e-6)
    assert "mean of all queries of the model; mean over heads" in page.inner_text("#caption")


def test_the_slider_the_keys_and_the_curves_go_through_the_training(
    opened: Opened, recordings: dict[str, Recording]
) -> None:
    recording = recordings[MODELS[0]]
    steps = [step.step for step in recording.steps]
    page = open_runs(opened, recording)
    assert step_of(page) == steps[-1]
    assert f"step {steps[-1]}, epoch 3" in page.inner_text("#step-name")
    page.keyboard.press(",")
    until(page, f"detrscope.app.payload.header.notes.step === {steps[-2]}")
    page.keyboard.press(".")
    until(page, f"detrscope.app.payload.header.notes.step === {steps[-1]}")
    page.locator("#step").focus()
    page.keyboard.press("Home")
    until(page, "detrscope.app.payload.header.notes.step === 0")
    assert "before training" in page.inner_text("#step-name")
    chart = page.locator("#curves svg").first
    chart.scroll_into_view_if_needed()
    assert "AP -" in str(chart.get_attribute("aria-label"))  # nothing is known before training
    box = chart.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    until(page, f"detrscope.app.payload.header.notes.step === {steps[-1]}")
    known = 100 * float(recording.metrics[-1]["val/AP"] or 0)
    shown = str(page.locator("#curves svg").first.get_attribute("aria-label"))
    assert float(shown.partition("AP ")[2].split(",")[0]) == pytest.approx(known, rel=0.06, abs=1e-9)


def test_playing_ends_at_the_last_step(opened: Opened, recordings: dict[str, Recording]) -> None:
    recording = recordings[MODELS[0]]
    page = open_runs(opened, recording)
    page.evaluate("""() => { const { app } = detrscope, place = app.place.bind(app);
      app.seen = [];
      app.place = (now, left) => { app.seen.push(now.payload.header.notes.step); place(now, left); }; }""")
    page.click("#play-steps")
    steps = [step.step for step in recording.steps]
    until(
        page,
        "steps => JSON.stringify(detrscope.app.seen.slice(0, steps.length)) === JSON.stringify(steps)",
        steps,
    )
    until(page, "document.getElementById('play-steps').getAttribute('aria-pressed') === 'false'")


def test_an_object_is_followed_through_the_training(opened: Opened, recordings: dict[str, Recording]) -> None:
    """The chosen query stays that which Python's tracks give, although its number may change."""
    page_of = RunPage(recordings[MODELS[0]], "run")
    page = open_runs(opened, page_of.recording)
    page.check('[data-state="every"]')
    page.locator("#detections li").nth(2).click()
    key = page.evaluate("detrscope.app.state.query")
    for index, step in enumerate(page_of.recording.steps):
        to_step(page, index, step.step)
        tracks = page.evaluate("detrscope.app.payload.header.tracks")
        current = page.locator('#detections li[aria-current="true"]')
        assert current.get_attribute("data-query") == str(tracks.index(key))


def test_two_steps_side_by_side(opened: Opened, recordings: dict[str, Recording]) -> None:
    recording = recordings[MODELS[0]]
    steps = [step.step for step in recording.steps]
    page = open_runs(opened, recording)
    assert page.is_hidden("#before")
    page.select_option("#beside", "0")
    page.wait_for_selector("#before:not([hidden])")
    to_step(page, 1, steps[1], "#other-step")
    assert f"step {steps[1]}" in page.inner_text("#before-name")
    assert f"step {steps[-1]}" in page.inner_text("#now-name")
    high = "detrscope.app.stage.scene.map.range.high"
    assert page.evaluate(high) == page.evaluate(high.replace("stage", "before"))  # one scale
    page.keyboard.press("+")
    assert page.evaluate("detrscope.app.stage.zoom.scale") == pytest.approx(1.5)
    page.locator('[data-state="threshold"]').fill("0")
    assert "before" not in page.inner_text("#step-changes")
    assert page.locator("#step-changes tr").count() > 1
    link = page.evaluate("location.hash")
    other = open_runs(opened, recording, hash=link)
    assert other.evaluate("detrscope.app.left.header.notes.step") == steps[1]
    page.select_option("#beside", "-1")
    page.wait_for_selector("#before", state="hidden")


def test_two_runs_side_by_side(opened: Opened, recordings: dict[str, Recording]) -> None:
    first, second = (recordings[name] for name in MODELS)
    page = open_runs(opened, first, second)
    page.select_option("#beside", "1")
    page.wait_for_selector("#before:not([hidden])")
    assert MODELS[1] in page.inner_text("#before-name") and MODELS[0] in page.inner_text("#now-name")
    assert page.evaluate("detrscope.app.left.header.model") == MODELS[1]
    assert page.locator("#curves polyline[stroke-dasharray='1.5 2']").count() > 0
    page.select_option("#run-name", "1")
    until(page, f"detrscope.app.payload.header.model === '{MODELS[1]}'")


def test_every_image_of_the_run(opened: Opened, recordings: dict[str, Recording]) -> None:
    recording = recordings[MODELS[0]]
    page = open_runs(opened, recording)
    sources = [image.source for image in recording.images.values()]
    assert page.evaluate("detrscope.app.payload.header.source") == sources[0]
    page.select_option("#run-image", "1")
    until(page, f"detrscope.app.payload.header.source === {sources[1]!r}")


def test_annotated_boxes_are_shown_or_not(opened: Opened, recordings: dict[str, Recording]) -> None:
    recording = recordings[MODELS[0]]
    page = open_runs(opened, recording)
    targets = next(iter(recording.images.values())).targets_xyxy
    assert targets is not None and len(targets) > 0
    count = "detrscope.app.stage.scene.boxes.length"
    shown = page.evaluate(count)
    page.uncheck('[data-state="truth"]')
    assert shown - page.evaluate(count) == len(targets)


def test_what_is_shown_can_be_made_again(opened: Opened, recordings: dict[str, Recording]) -> None:
    recording = recordings[MODELS[0]]
    page = open_runs(opened, recording)
    page.click("#copy-command")
    image, query = next(iter(recording.images)), page.evaluate("detrscope.app.state.query")
    expected = f"detrscope timelapse {MODELS[0]} --view queries --query {query} --image {image}"
    assert page.input_value("#copied").startswith(expected)
    page.click("#copy-python")
    assert page.input_value("#copied").startswith(f'ds.timelapse("{MODELS[0]}", view="queries"')


def test_a_phone_sees_the_training(opened: Opened, recordings: dict[str, Recording]) -> None:
    page = open_runs(opened, recordings[MODELS[0]], width=380)
    assert page.evaluate("document.documentElement.scrollWidth") <= 380


def test_long_runs_keep_to_the_room(opened: Opened, recordings: dict[str, Recording]) -> None:
    recording = recordings[MODELS[0]]
    run = RunPage(recording, "run")
    assert run.fitting_steps(10**9) == [0, 1, 2, 3]
    assert run.fitting_steps(1) == [0, 3]
    path = opened.folder / "small.html"
    write_run_page([run], path, room=1)
    page = opened.page()
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    assert "2 of 4 snapshots are in this file" in page.inner_text("#run-note")
    assert "not in this file" in page.inner_text("#about")


def test_no_run_and_no_such_snapshot_are_errors(recordings: dict[str, Recording], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one run"):
        write_run_page([], tmp_path / "run.html")
    run = RunPage(recordings[MODELS[0]], "run")
    with pytest.raises(UserError, match="snapshot 4: expected 0 to 3"):
        run.step(0, 4)
    with pytest.raises(UserError, match="image 2: expected 0 to 1"):
        run.base(2)


@pytest.fixture(scope="module")
def live(runs: dict[str, Path]) -> Explorer:
    return explore([runs[MODELS[0]]])


def test_the_server_gives_snapshots_and_nothing_else(live: Explorer) -> None:
    client = TestClient(live.app, base_url=live.url.rstrip("/"), raise_server_exceptions=False)
    token = {"X-Detrscope-Token": live.app.state.token}
    assert client.get("/api/snapshot", params={"name": "0 0 1"}).status_code == 403
    for name in ("0 0", "0 1 3"):
        assert client.get("/api/snapshot", params={"name": name}, headers=token).status_code == 200
    for name in ("", "1 0", "0 9", "0 0 99", "0 0 0 0", "-1 0", "../x", "0 0 999999999", "\u0660 \u0660"):
        answer = client.get("/api/snapshot", params={"name": name}, headers=token)
        assert answer.status_code == 422, name
        assert "offered" in answer.json()["detail"] or "expected" in answer.json()["detail"]


def test_the_live_page_has_the_training_and_the_trained_model(live: Explorer, opened: Opened) -> None:
    with served(live):
        page = opened.page()
        page.goto(live.url)
        page.wait_for_selector("html[data-ready]")
        assert page.is_visible("#run") and page.is_hidden("#edit-tools")
        assert "a snapshot has no model to run" in page.inner_text("#edit-note")
        choices = page.locator("#offered option").all_inner_texts()
        assert choices[0] == "a snapshot of the training" and choices[1].endswith(", trained model")
        page.select_option("#offered", index=1)
        until(page, "detrscope.app.payload.header.numbers === null")
        assert page.is_visible("#edit-tools")
        page.click("#edit-mute")
        until(page, "detrscope.app.payload.header.edits.length === 1")
        page.locator("#step").fill("1")
        until(page, "detrscope.app.payload.header.numbers !== null")
        assert page.is_hidden("#edit-tools") and page.input_value("#offered") == ""


def test_a_training_that_goes_on_is_read_again(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(runs[MODELS[0]], tmp_path / "run")
    last = max((folder / "snapshots").glob("step_*"))
    shutil.move(last, tmp_path / "later")
    explorer = explore([folder])
    client = TestClient(explorer.app, base_url=explorer.url.rstrip("/"))
    assert '"epoch": 2.0' in client.get("/").text and '"epoch": 3.0' not in client.get("/").text
    shutil.move(tmp_path / "later", last)
    assert '"epoch": 3.0' in client.get("/").text


def test_a_run_without_snapshots_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="contains no snapshots; train with probe_images=DIR"):
        explore([tmp_path])
