"""The model in the browser: its detections, records and edits are PyTorch's; nothing but its own files is asked for."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Page

import detrscope as ds
from detrscope.checkpoints.load import load_model
from detrscope.checkpoints.mask_head import load_with_mask_head
from detrscope.checkpoints.native import save_checkpoint
from detrscope.core.edit_text import parse_edit
from detrscope.core.edits import Gain, KeyBias
from detrscope.core.errors import UserError, WorkFailed
from detrscope.core.mask_pixels import masks_of_queries
from detrscope.core.preprocessing import Preprocessing
from detrscope.data.drawn_dogs import write_drawn
from detrscope.explorer import runtime
from detrscope.inference.detector import Detector
from detrscope.trace_interface import Trace
from tests.explorer.conftest import Opened, until
from tests.support.tiny_models import tiny
from tests.support.traces import detector_of, picture

ROW = """(site) => {
  const { payload } = detrscope.app;
  return detrscope.attentionRow(payload, payload.site(site), 1).heads.map((head) => [...head]);
}"""
RESIZED = """([data, height, width, h, w, filter, antialias]) =>
  [...detrscope.resized({height, width, data: Uint8Array.from(data)}, h, w, filter, antialias).data]"""
EDITS = [
    ["decoder.0.self: heads 1 x0"],
    ["*: hide region 40,60,110,140"],
    ["decoder.*.cross: favour region 0,0,60,60 +2", "encoder.*.self: x0.5"],
    [
        "decoder.1.cross: queries 0-3 x0.3",
        "decoder.*.self: hide keys 1,2",
        "decoder.2.cross: keys 10-30 heads 0 x2",
    ],
]


@pytest.fixture(scope="module")
def dog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "dogs"
    write_drawn(folder, count=6, seed=1)
    return folder / "images" / "000005.png"


@pytest.fixture(scope="session")
def runtime_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runtime")
    try:
        runtime.copy_runtime(folder)
    except (UserError, WorkFailed) as error:
        pytest.skip(f"no runtime for the browser: {error}")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model with a mask head of random weights."""
    loaded = load_with_mask_head(load_model("sprint-dense-n"), "dot-product")
    path = tmp_path_factory.mktemp("model") / "masks.safetensors"
    save_checkpoint(path, loaded.model, loaded.card)
    return path


@pytest.fixture(scope="module")
def address(
    dog: Path, checkpoint: Path, runtime_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    site = tmp_path_factory.mktemp("published") / "site"
    page = ds.publish(checkpoint, site, samples=[dog], runtime=runtime_folder)
    assert page == site / "index.html"
    with hosted(site) as url:
        yield url


@contextmanager
def hosted(site: Path) -> Iterator[str]:
    """Serve a folder as a web host does; yield its address."""
    handler = functools.partial(QuietHandler, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def published(opened: Opened, address: str) -> Iterator[Page]:
    page = opened.page()
    page.goto(address)
    page.wait_for_selector("html[data-ready]", timeout=60_000)
    yield page
    opened.errors = [error for error in opened.errors if "No available adapters" not in error]  # no GPU here
    assert all(url.startswith((address, "blob:")) for url in opened.requests), "a request left"


@pytest.fixture(scope="module")
def detector(checkpoint: Path) -> Detector:
    return ds.load(checkpoint, device="cpu")


def compare(page: Page, trace: Trace) -> None:
    """Scores within 1e-3, boxes within half a pixel, rows of every site near."""
    boxes, scores = trace.boxes_xyxy(), trace.scores()[:, 0]
    found = page.evaluate("detrscope.detections(detrscope.app.payload, 0)")
    assert len(found) == trace.queries
    for one in found:
        query = one["query"]
        assert one["score"] == pytest.approx(float(scores[query]), abs=1e-3)
        np.testing.assert_allclose(one["box"], boxes[query].numpy(), atol=0.5)
    for site in trace.sites:
        rows = page.evaluate(
            ROW,
            site,
        )
        expected = trace.record(site).rows(torch.tensor([1]))[0, :, 0]
        np.testing.assert_allclose(np.array(rows), expected.numpy(), atol=5e-3)


def test_detections_and_records_are_pytorchs_with_and_without_edits(
    published: Page, detector: Detector, dog: Path
) -> None:
    compare(published, detector.trace(dog))
    plain = detector.trace(dog).logits
    for edits in EDITS:
        published.evaluate("(edits) => detrscope.app.apply(edits)", edits)
        assert published.inner_text("#edit-error") == ""
        edited = detector.trace(dog, edits=edits)
        assert (edited.logits - plain).abs().max() > 1e-3
        compare(published, edited)
    assert published.locator("#stage-before").is_visible()


def test_another_picture_is_opened_in_the_browser(
    published: Page, detector: Detector, tmp_path: Path
) -> None:
    path = tmp_path / "mine.png"
    Image.fromarray(picture(150, 233).permute(1, 2, 0).numpy()).save(path)
    published.set_input_files("#file", path)
    until(published, "detrscope.app.payload.header.width === 233")
    compare(published, detector.trace(path))
    (tmp_path / "no.png").write_text("no picture")
    published.set_input_files("#file", tmp_path / "no.png")
    until(published, "document.getElementById('open-note').textContent.length > 0")
    assert "not a picture" in published.inner_text("#open-note")


def test_masks_in_the_browser_are_pytorchs(published: Page, detector: Detector, dog: Path) -> None:
    masks = detector.trace(dog).masks
    assert masks is not None and published.is_visible("#masks-row")
    height, width = published.evaluate("detrscope.app.payload.header.maskSize")
    assert (height, width) == (160, 160)
    expected = masks_of_queries(masks, range(masks.logits.shape[1]), height, width).numpy()
    assert 0.05 < expected.mean() < 0.95, "the comparison could not fail"
    for query, mask in enumerate(expected):
        found = published.evaluate(f"Array.from(detrscope.maskOf(detrscope.app.payload, {query}))")
        same = np.array(found, bool).reshape(height, width) == mask
        assert same.mean() > 0.999, "only where a logit is 0 to rounding"


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ("decodr.*: x0", "site 'decodr.*' is not in this model"),
        ("decoder.*.cross: heads 9 x0", "head 9 is outside 0..3"),
        ("*: hide region 900,900,999,999", "the region lies outside of the image"),
        ("decoder.*.cross: points 1 x0", "has no points"),
        ("decoder.*.cross: keys 1 queries 2 x0", "no input of an exported model"),
        ("decoder.*.cross: hide levels 0", "hides every key"),
        ("decoder.*.cross: what", "'what'"),
    ],
)
def test_wrong_edits_are_named_in_the_browser(published: Page, edit: str, says: str) -> None:
    published.fill("#edit-text", edit)
    published.click("#edit-add")
    until(published, "document.getElementById('edit-error').textContent.length > 0")
    assert says in published.inner_text("#edit-error")
    assert published.evaluate("detrscope.app.edits") == []


@pytest.fixture
def page(opened: Opened) -> Page:
    return opened.report(detector_of("sprint-dense-n").trace(picture(), sites=[]))


@pytest.mark.parametrize("filter", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(37, 53), (20, 31), (64, 200)])
def test_resizing_is_torchvisions_to_the_last_bit(page: Page, filter: str, size: tuple[int, int]) -> None:
    image = picture(41, 67)
    resized = Preprocessing(fit="exact", box=size, filter=filter).resize(image)  # type: ignore[arg-type]
    found = page.evaluate(
        RESIZED,
        [image.permute(1, 2, 0).flatten().tolist(), 41, 67, *size, filter, True],
    )
    difference = np.array(found).reshape(*size, 3) - resized.permute(1, 2, 0).numpy().astype(int)
    assert (difference == 0).all()


def test_resizing_without_antialiasing_is_torchvisions_to_one_level(page: Page) -> None:
    image = picture(41, 67)
    resized = Preprocessing(fit="exact", box=(20, 31), antialias=False).resize(image)
    found = page.evaluate(
        RESIZED, [image.permute(1, 2, 0).flatten().tolist(), 41, 67, 20, 31, "bilinear", False]
    )
    difference = np.array(found).reshape(20, 31, 3) - resized.permute(1, 2, 0).numpy().astype(int)
    assert np.abs(difference).max() <= 1
    smooth = Preprocessing(fit="exact", box=(20, 31)).resize(image)
    assert (smooth.int() - resized.int()).abs().max() > 20, "the comparison could not fail"


def test_sizes_after_resizing_are_pythons(page: Page) -> None:
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 2000, (400, 2)).tolist()
    for preprocessing in (
        Preprocessing(),
        Preprocessing(128, 128),
        Preprocessing(480, 640),
        Preprocessing(fit="within", box=(640, 500)),
        Preprocessing(fit="none"),
    ):
        found = page.evaluate(
            "([preprocessing, sizes]) => sizes.map(([h, w]) => detrscope.sizeFor(preprocessing, h, w))",
            [preprocessing.to_json(), sizes],
        )
        assert [tuple(one) for one in found] == [preprocessing.size_for(*size) for size in sizes]


@pytest.mark.parametrize(
    "text", [edit for edits in EDITS for edit in edits] + ["a: favor keys 5,-1 -2.5", "a: x1e-3"]
)
def test_the_grammar_in_the_browser_is_pythons(page: Page, text: str) -> None:
    found, expected = page.evaluate("(text) => detrscope.parseEdit(text)", text), parse_edit(text)
    assert found["site"] == expected.site
    for name in ("heads", "queries", "keys", "points", "levels"):
        assert tuple(found.get(name) or ()) == (getattr(expected, name) or ())
    if isinstance(expected, Gain):
        assert found["factor"] == expected.factor
    else:
        assert isinstance(expected, KeyBias) and found["score"] == expected.score
        assert found["region"] == (None if expected.region_xyxy is None else list(expected.region_xyxy))


@pytest.mark.parametrize(
    "text", ["a", "a: x", "a: heads 1", "a: x0 hide", "a: hide region 3,1,2,4", "a: favour keys 1 +1 +2"]
)
def test_what_python_refuses_the_browser_refuses(page: Page, text: str) -> None:
    with pytest.raises(UserError):
        parse_edit(text)
    refused = page.evaluate(
        "(text) => { try { detrscope.parseEdit(text); return ''; } catch (error) { return error.message; } }",
        text,
    )
    assert text in refused


def test_a_runtime_that_is_not_the_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        runtime.copy_runtime(tmp_path / "out", tmp_path / "none.tgz")
    (tmp_path / "other.tgz").write_bytes(b"something else")
    with pytest.raises(UserError, match="its hash differs"):
        runtime.copy_runtime(tmp_path / "out", tmp_path / "other.tgz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no ort\.wasm\.min\.mjs"):
        runtime.copy_runtime(tmp_path / "out", tmp_path / "empty")
    monkeypatch.setenv("DETRSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(UserError, match=r"npm, which is not installed; .*runtime=DIR"):
        runtime.copy_runtime(tmp_path / "out")
    assert not (tmp_path / "out" / "ort.wasm.min.mjs").exists()


def test_samples_are_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no picture")
    with pytest.raises(UserError, match=r"a\.txt"):
        ds.publish("sprint-dense-n", tmp_path / "site", samples=[tmp_path / "a.txt"])


def test_deformable_attention_in_the_browser_is_pytorchs(
    opened: Opened, dog: Path, runtime_folder: Path, tmp_path: Path
) -> None:
    loaded = tiny("sprint-deformable-n")
    preprocessing = replace(loaded.card.preprocessing, short_side=64, long_side=96)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, loaded.model, replace(loaded.card, preprocessing=preprocessing))
    detector = ds.load(path, device="cpu")
    ds.publish(path, tmp_path / "site", samples=[dog], runtime=runtime_folder)
    edits = ["decoder.*.cross: levels 0 x0.5", "decoder.1.cross: heads 1 x0", "*: hide region 30,30,90,90"]
    with hosted(tmp_path / "site") as url:
        page = opened.page()
        page.goto(url)
        page.wait_for_selector("html[data-ready]", timeout=60_000)
        for chosen in ([], edits):
            page.evaluate("(edits) => detrscope.app.apply(edits)", chosen)
            assert page.inner_text("#edit-error") == ""
            trace = detector.trace(dog, edits=chosen)
            best = trace.scores().max(1)
            found = page.evaluate("""() => { const { payload } = detrscope.app, { layers, queries } = payload.header;
              const scores = payload.floats("top_scores"), boxes = payload.floats("boxes");
              const count = payload.shape("top_scores")[2];
              return Array.from({ length: queries }, (_, q) => { const row = (layers - 1) * queries + q;
                return { score: scores[row * count], box: [...boxes.slice(4 * row, 4 * row + 4)] }; }); }""")
            assert [one["score"] for one in found] == pytest.approx(best.values.tolist(), abs=1e-3)
            np.testing.assert_allclose([one["box"] for one in found], trace.boxes_xyxy().numpy(), atol=0.5)
            for site in trace.sites:
                expected = trace.record(site).rows(torch.tensor([1]))[0, :, 0]
                np.testing.assert_allclose(np.array(page.evaluate(ROW, site)), expected.numpy(), atol=5e-3)
    opened.errors = [error for error in opened.errors if "No available adapters" not in error]  # no GPU here
