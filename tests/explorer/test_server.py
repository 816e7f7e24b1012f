"""The live page: edits are Python's, and requests that are wrong, foreign or hostile get a clear refusal."""

from __future__ import annotations

import io
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.fuzzed_requests import random_request
from PIL import Image
from starlette.testclient import TestClient

import detrscope as ds
from detrscope.commands import explore as command
from detrscope.commands.explore import Explorer, explore
from detrscope.core.errors import UserError
from detrscope.explorer.payload import MAGIC, trace_payload
from detrscope.explorer.requests import MAX_UPLOAD
from detrscope.inference.detector import Detector
from tests.explorer.conftest import Opened, served, until
from tests.support.traces import detector_of, picture

MUTED = "decoder.*.cross: heads 0,1 x0"


@pytest.fixture(scope="module")
def detector() -> Detector:
    return detector_of("sprint-dense-n")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "<b>photo.png"
    Image.fromarray(picture(60, 90).permute(1, 2, 0).numpy()).save(path)
    return path


@pytest.fixture(scope="module")
def explorer(detector: Detector, photo: Path) -> Explorer:
    return explore([photo], detector)


@pytest.fixture
def client(explorer: Explorer) -> TestClient:
    return TestClient(explorer.app, base_url=explorer.url.rstrip("/"), raise_server_exceptions=False)


def asked(client: TestClient, explorer: Explorer, **fields: Any) -> Any:
    files = {"file": fields.pop("file")} if "file" in fields else {"_": ("", b"")}
    headers = {"X-Detrscope-Token": explorer.app.state.token, **fields.pop("headers", {})}
    return client.post("/api/trace", data=fields, files=files if "file" in files else None, headers=headers)


def header_of(data: bytes) -> dict:
    assert data.startswith(MAGIC)
    size = int(np.frombuffer(data, np.uint32, 1, len(MAGIC))[0])
    return json.loads(data[len(MAGIC) + 4 : len(MAGIC) + 4 + size])


def test_an_offered_picture_is_traced_with_edits(client: TestClient, explorer: Explorer, photo: Path) -> None:
    answer = asked(client, explorer, name=str(photo), edits=json.dumps([MUTED, "*: hide region 5,5,40,30"]))
    assert answer.status_code == 200
    assert header_of(answer.content)["edits"] == [MUTED, "*: hide region 5,5,40,30"]
    assert answer.headers["x-request-id"] and answer.headers["x-content-type-options"] == "nosniff"


def test_uploads_are_traced(client: TestClient, explorer: Explorer, photo: Path) -> None:
    answer = asked(client, explorer, file=("../../etc/passwd", photo.read_bytes()))
    assert answer.status_code == 200
    header = header_of(answer.content)
    assert (header["width"], header["height"], header["source"]) == (90, 60, "")


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({}, 422, "expected a name of an offered picture, or a file"),
        ({"name": "/etc/passwd"}, 422, "this picture was not offered"),
        ({"name": "../secret.png"}, 422, "this picture was not offered"),
        ({"name": "PHOTO", "edits": "[1]"}, 422, "expected a list of at most 200 texts"),
        ({"name": "PHOTO", "edits": "{"}, 422, "edits: not JSON"),
        ({"name": "PHOTO", "edits": "[" * 100_000}, 422, "edits: not JSON"),
        ({"name": "PHOTO", "edits": '["decoder.*.cross: heads 9 x0"]'}, 422, "head 9 is outside 0..3"),
        ({"name": "PHOTO", "edits": '["decodr.0: x0"]'}, 422, "site 'decodr.0' is not in this model"),
        ({"name": "PHOTO", "edits": '["a: x"]'}, 422, "edits: edit 0: edit 'a: x'"),
        ({"file": ("a.png", b"no picture")}, 422, "not an image that can be read"),
        ({"file": ("a.png", b"")}, 422, ""),
        ({"name": "PHOTO", "headers": {"X-Detrscope-Token": "wrong"}}, 403, "wrong token"),
        ({"name": "PHOTO", "headers": {"Host": "evil.example"}}, 403, "under its own address only"),
        ({"name": "PHOTO", "headers": {"Origin": "http://evil.example"}}, 403, "requests of other pages"),
        ({"name": "PHOTO", "headers": {"Origin": "null"}}, 403, "requests of other pages"),
    ],
)
def test_wrong_requests_are_refused(
    client: TestClient, explorer: Explorer, photo: Path, fields: dict[str, Any], status: int, says: str
) -> None:
    fields = {key: str(photo) if value == "PHOTO" else value for key, value in fields.items()}
    answer = asked(client, explorer, **fields)
    assert answer.status_code == status and says in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


def test_pictures_are_bounded(
    client: TestClient, explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    Image.new("1", (3000, 3000)).save(buffer, "PNG")
    monkeypatch.setattr(command, "MAX_PIXELS", 1_000_000)
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded before its size was known"))
    answer = asked(client, explorer, file=("bomb.png", buffer.getvalue()))
    assert answer.status_code == 422 and "3000 x 3000 pixels" in answer.json()["detail"]
    too_long = {"X-Detrscope-Token": explorer.app.state.token, "Content-Length": str(3 * MAX_UPLOAD)}
    assert client.post("/api/trace", content=b"x", headers=too_long).status_code == 413


def test_random_requests_give_no_server_error(client: TestClient, explorer: Explorer, photo: Path) -> None:
    """The first of those that `python -m benchmarks.page_fuzz` sends to a server."""
    generator = random.Random(0)
    statuses: dict[int, int] = {}
    for _ in range(400):
        request = random_request(generator, explorer.app.state.token, [str(photo)])
        status = client.request(**request.arguments()).status_code
        statuses[status] = statuses.get(status, 0) + 1
    assert set(statuses) <= {200, 400, 403, 404, 405, 411, 413, 422}, statuses
    assert statuses[200] > 20 and statuses[422] > 100  # both kinds are among them


def test_other_addresses_need_the_token_in_the_address(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_to_others = explore([], detector, host="0.0.0.0")
    client = TestClient(open_to_others.app, base_url=open_to_others.url.split("?")[0].rstrip("/"))
    assert client.get("/").status_code == 403
    assert client.get("/?" + open_to_others.url.split("?")[1]).status_code == 200


def test_only_so_many_wait(detector: Detector, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, entered = threading.Event(), threading.Event()

    class Slow(Detector):
        def trace(self, *args: Any, **kwargs: Any) -> Any:
            entered.set()
            held.wait(20)
            return super().trace(*args, **kwargs)

    slow = explore([photo], Slow(detector.engine, detector.card))
    client = TestClient(slow.app, base_url=slow.url.rstrip("/"))
    client.__enter__()  # one event loop for all threads
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(asked(client, slow, name=str(photo)).status_code))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    assert entered.wait(20)
    deadline = time.monotonic() + 20
    while len(answers) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert answers == [503] * 4
    held.set()
    for thread in threads:
        thread.join()
    client.__exit__()
    assert sorted(answers) == [200] * 8 + [503] * 4


def test_traces_need_no_model_and_take_no_edits(detector: Detector, tmp_path: Path) -> None:
    path = detector.trace(picture(), sites="decoder.*").save(tmp_path / "a.trace")
    alone = explore([path])
    client = TestClient(alone.app, base_url=alone.url.rstrip("/"))
    assert asked(client, alone, name=str(path)).status_code == 200
    refused = asked(client, alone, name=str(path), edits=json.dumps([MUTED]))
    assert refused.status_code == 422 and "no model is loaded" in refused.json()["detail"]
    assert asked(client, alone, file=("a.png", b"x")).status_code == 422
    with_model = explore([path], detector)
    client = TestClient(with_model.app, base_url=with_model.url.rstrip("/"))
    assert asked(client, with_model, name=str(path), edits=json.dumps([MUTED])).status_code == 200


def test_a_port_that_is_taken_is_named(detector: Detector) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port}: cannot be listened on"):
            explore([], detector, port=port)


@pytest.fixture
def address(explorer: Explorer) -> Iterator[str]:
    with served(explorer) as url:
        yield url


def test_interventions_in_the_browser_are_pythons(
    opened: Opened, address: str, detector: Detector, photo: Path, tmp_path: Path
) -> None:
    page = opened.page()
    page.goto(address + "#threshold=0")
    page.wait_for_selector("html[data-ready]")
    assert "<b>photo" in page.inner_text("#title") and page.locator("b").count() == 0

    def done(count: int) -> None:
        until(page, f"detrscope.app.payload.header.edits.length === {count}")
        until(page, "!document.documentElement.dataset.busy")

    def scores() -> list[tuple[int, float]]:
        found = page.evaluate("detrscope.detections(detrscope.app.payload, 0)")
        return sorted((one["query"], one["score"]) for one in found)

    def expected(edits: list[str]) -> list[tuple[int, float]]:
        trace = detector.trace(photo, edits=edits)
        top = trace.scores().topk(min(5, len(trace.classes)), dim=-1)
        return sorted((query, float(score)) for query in range(trace.queries) for score in top.values[query])

    page.select_option("#edit-site", "decoder.*.cross")
    page.fill("#edit-heads", "0, 1")
    page.click("#edit-mute")
    done(1)
    assert page.inner_text("#edits").startswith(MUTED)
    np.testing.assert_allclose(scores(), expected([MUTED]), atol=1e-5)
    assert page.locator("#stage-before").is_visible() and "IoU" in page.inner_text("#changes")

    page.fill("#edit-heads", "")
    page.select_option("#edit-site", "*")
    page.click("#edit-hide")
    box = page.locator("#stage").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.7 * box["height"], steps=3)
    page.mouse.up()
    done(2)
    edits = page.evaluate("detrscope.app.edits")
    x0, y0, x1, y1 = map(float, edits[1].removeprefix("*: hide region ").split(","))
    assert (x0, y0, x1, y1) == pytest.approx((18, 12, 54, 42), abs=0.6)
    np.testing.assert_allclose(scores(), expected(edits), atol=1e-5)

    with page.expect_download() as download:
        page.click("#edit-save")
    download.value.save_as(tmp_path / "edits.json")
    again = detector.trace(photo, edits=command_edits(tmp_path / "edits.json"))
    assert torch.equal(again.logits, detector.trace(photo, edits=edits).logits)

    page.fill("#edit-text", "decoder.*.cross: haeds 1 x0")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('edit-error').textContent")
    assert "did you mean 'heads'" in page.inner_text("#edit-error")
    opened.errors = [error for error in opened.errors if "422" not in error]  # the browser's own line
    page.fill("#edit-text", "decoder.1.cross: favour region 0,0,30,30 +2")
    page.click("#edit-add")
    done(3)
    page.click("#edit-undo")
    done(2)
    page.locator("#edits button").first.click()
    done(1)
    page.click("#edit-query")
    done(2)
    assert "decoder.*.self: hide keys" in page.inner_text("#edits")
    page.click("#edit-favour")
    assert page.get_attribute("#edit-favour", "aria-pressed") == "true"


def test_only_the_last_of_several_edits_counts(opened: Opened, address: str) -> None:
    page = opened.page()
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    texts = [[f"decoder.*.cross: x0.{n}"] for n in range(1, 6)]
    page.evaluate("(texts) => Promise.all(texts.map((edits) => detrscope.app.apply(edits)))", texts)
    assert page.evaluate("detrscope.app.payload.header.edits") == texts[-1]
    assert page.inner_text("#edit-error") == "" and page.evaluate("detrscope.app.edits") == texts[-1]


def test_another_picture_is_opened(opened: Opened, address: str, tmp_path: Path) -> None:
    path = tmp_path / "other.png"
    Image.fromarray(picture(40, 70).permute(1, 2, 0).numpy()).save(path)
    page = opened.page()
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    page.set_input_files("#file", path)
    until(page, "detrscope.app.payload.header.width === 70")
    (tmp_path / "no.png").write_text("no picture")
    opened.errors.clear()
    page.set_input_files("#file", tmp_path / "no.png")
    until(page, "document.getElementById('open-note').textContent")
    assert "not an image" in page.inner_text("#open-note")
    opened.errors = [error for error in opened.errors if "422" not in error]


def command_edits(path: Path) -> Any:
    from detrscope.commands.edits import read_edits

    return read_edits(file=path)


def test_the_attention_of_another_picture_is_patched_in(
    client: TestClient, explorer: Explorer, detector: Detector, photo: Path
) -> None:
    other = picture(60, 90, seed=3)
    file = io.BytesIO()
    Image.fromarray(other.permute(1, 2, 0).numpy()).save(file, "PNG")
    edits = json.dumps(["swap decoder.1.cross value", "decoder.0.cross: heads 1 x0"])
    headers = {"X-Detrscope-Token": explorer.app.state.token}
    form = {"name": str(photo), "edits": edits}
    answer = client.post(
        "/api/trace", data=form, files={"other_file": ("o.png", file.getvalue())}, headers=headers
    )
    assert answer.status_code == 200
    donor = detector.trace(other, values=True)
    swaps = ds.swaps_from(donor, "decoder.1.cross", "value")
    expected = detector.trace(str(photo), edits=["decoder.0.cross: heads 1 x0", *swaps])
    assert header_of(answer.content)["edits"] == [edit.describe() for edit in expected.edits]
    boxes = np.frombuffer(trace_payload(expected).to_bytes(), np.uint8)
    assert answer.content == boxes.tobytes()
    alone = client.post("/api/trace", data=form, headers=headers)
    assert alone.status_code == 422 and "expected the other picture" in alone.json()["detail"]
    form["edits"] = json.dumps(["swap decoder.7.cross"])
    wrong = client.post("/api/trace", data={**form, "other_name": str(photo)}, headers=headers)
    assert wrong.status_code == 422
    assert "site 'decoder.7.cross' was not recorded in the other picture" in wrong.json()["detail"]


def test_a_patch_on_the_page_is_pythons(
    opened: Opened, address: str, detector: Detector, photo: Path, tmp_path: Path
) -> None:
    page = opened.page()
    page.goto(address + "#threshold=0")
    page.wait_for_selector("html[data-ready]")
    path = tmp_path / "other.png"
    Image.fromarray(picture(60, 90, seed=3).permute(1, 2, 0).numpy()).save(path)
    page.set_input_files("#file", path)
    until(page, "detrscope.app.source.previous !== null && !document.documentElement.dataset.busy")
    page.select_option("#edit-site", "decoder.1.cross")
    page.select_option("#edit-part", "value")
    page.click("#edit-swap")
    until(page, "detrscope.app.payload.header.edits.length === 1")
    swaps = ds.swaps_from(detector.trace(str(photo), values=True), "decoder.1.cross", "value")
    expected = detector.trace(str(path), edits=swaps)
    shown = page.evaluate("Array.from(detrscope.app.payload.floats('top_scores'))")
    best = expected.scores().max(1).values
    count = page.evaluate("detrscope.app.payload.shape('top_scores')[2]")
    torch.testing.assert_close(torch.tensor(shown)[::count][-len(best) :], best, rtol=1e-4, atol=1e-5)
    assert page.is_disabled("#edit-save")  # there is no file of a swap
    page.click("#copy-command")
    assert "--swap 'decoder.1.cross value from OTHER.trace'" in page.input_value("#copied")
    page.click("#copy-python")
    swap = 'ds.swaps_from(ds.Trace.load("OTHER.trace"), "decoder.1.cross", "value")'
    assert swap in page.input_value("#copied")
