"""How results show themselves in a notebook: pictures and small tables, escaped and of bounded size."""

from __future__ import annotations

import pickle
import re
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import detrscope as ds
from detrscope.core.html import MAX_ROWS, MAX_SHOWN, ResultList, html_table
from detrscope.core.types import Detections
from detrscope.data.drawn_dogs import write_drawn
from detrscope.evaluation.coco_ap import average_precision
from detrscope.inference.detector import Detector
from detrscope.inference.image_detections import ImageDetections
from detrscope.training.outcome import Outcome
from tests.support.traces import detector_of, picture

IMAGE = re.compile(r'<img src="data:image/(png|jpeg);base64,([A-Za-z0-9+/=]+)"')
EVIL = '<script>alert("x")</script>'
MOST = 800_000  # characters of one result


@pytest.fixture(scope="module")
def detector() -> Detector:
    return ds.load("sprint-dense-n", device="cpu")


@pytest.fixture(scope="module")
def dog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "dogs"
    write_drawn(folder, count=1, seed=1, start=5)
    return folder / "images" / "000005.png"


def pixels(html: str) -> list[np.ndarray]:
    """The pictures in a text of HTML."""
    from io import BytesIO

    return [np.asarray(Image.open(BytesIO(b64decode(data)))) for _, data in IMAGE.findall(html)]


def test_detections_show_picture_and_table(detector: Detector, dog: Path) -> None:
    detections = detector.detect(dog, threshold=0.3)
    html = detections._repr_html_()
    (shown,) = pixels(html)
    drawn = detections.draw().pixels()
    assert np.array_equal(shown, drawn) and len(detections)
    assert html.count("<tr>") == 1 + len(detections)
    assert ">dog<" in html and "tensor" not in html + repr(detections)


def test_detections_in_memory_are_drawn_while_their_image_lives(detector: Detector, dog: Path) -> None:
    with Image.open(dog) as opened:
        image = np.asarray(opened.convert("RGB"))
    found = detector.detect(image, threshold=0.3)
    assert np.array_equal(found.draw().pixels(), detector.detect(dog, threshold=0.3).draw().pixels())
    del image
    assert "no longer in memory" in found._repr_html_() and ">dog<" in found._repr_html_()


def test_pickled_detections_find_their_file(detector: Detector, dog: Path) -> None:
    found = detector.detect(dog, threshold=0.3)
    copy = pickle.loads(pickle.dumps(found))
    assert copy._repr_html_() == found._repr_html_()
    assert "no longer in memory" in pickle.loads(pickle.dumps(detector.detect(picture())))._repr_html_()


def test_changed_image_is_not_drawn(detector: Detector, dog: Path, tmp_path: Path) -> None:
    path = tmp_path / "dog.png"
    path.write_bytes(dog.read_bytes())
    found = detector.detect(path)
    Image.new("RGB", (90, 50)).save(path)
    assert "but detections are in 160 x 160" in found._repr_html_()
    path.unlink()
    assert "not drawn" in found._repr_html_()


def test_selected_detections_are_drawn_too(detector: Detector, dog: Path) -> None:
    found = detector.detect(dog, threshold=0.0)
    assert len(found.select([0])) == 1 and pixels(found.select([0])._repr_html_())
    assert "and 3 more" in found.select([0] * (MAX_ROWS + 3))._repr_html_()


def test_large_images_are_reduced(detector: Detector) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1800, 2600, 3), dtype=np.uint8)
    html = detector.detect(noise, threshold=0.0)._repr_html_()
    (shown,) = pixels(html)
    assert max(shown.shape) == 1000 and len(html) < MOST


def test_names_are_escaped(dog: Path) -> None:
    found = Detections(
        torch.tensor([[1.0, 2, 30, 40]]), torch.ones(1), torch.ones(1).long(), (EVIL,), torch.zeros(1).long(),
        160, 160, EVIL,
    )  # fmt: skip
    for shown in (ImageDetections(EVIL, found), ImageDetections(EVIL, found, frame=3, time=0.1, note=EVIL)):
        html = shown._repr_html_()
        assert "<script" not in html and "&lt;script&gt;" in html
    with_source = replace(detector_of("detr-r18").trace(picture()), source=EVIL)
    assert "<script" not in with_source._repr_html_() + with_source.cross_attention(0)._repr_html_()
    (result,) = ds.see(with_source, views="detections", options=ds.ViewOptions(queries=(0,)))
    assert "<script" not in result._repr_html_() and "&lt;script&gt;" in result._repr_html_()


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_trace_shows_detections_or_its_best_query(threshold: float, detector: Detector, dog: Path) -> None:
    trace = detector.trace(dog)
    if threshold:
        trace = replace(trace, logits=trace.logits - 20)  # no score is left
    html = trace._repr_html_()
    assert len(pixels(html)) == 1 and "decoder.1.cross" in html and len(html) < MOST
    assert ("Detections(0 in" in html) == bool(threshold)


def test_maps_show_picture_and_numbers(detector: Detector, dog: Path) -> None:
    trace = detector.trace(dog)
    for shown in (
        trace.cross_attention(0),
        trace.self_attention(point=(80, 80)),
        trace.self_attention(query=0),
    ):
        html = shown._repr_html_()
        assert len(pixels(html)) == 1 and "sum of all weights" in html and len(html) < MOST
        assert "tensor" not in html + repr(shown)


def test_figures_show_themselves_written_or_not(detector: Detector, dog: Path, tmp_path: Path) -> None:
    views = ["detections", "per-query", "metrics", "encoder"]
    options = ds.ViewOptions(threshold=0.3)
    kept = ds.see(dog, detector, views=views, options=options)
    written = ds.see(dog, detector, views=views, options=options, out=tmp_path)
    for results in (kept, written):
        html = results._repr_html_()
        assert len(pixels(html)) == 3 and len(html) < 3 * MOST
        assert "encoder self-attention of points" in html and "tensor" not in repr(results)
    assert "figures[&#x27;encoder&#x27;]" in kept._repr_html_() and "encoder.png" in written._repr_html_()


def test_lists_show_their_first_results(detector: Detector, dog: Path) -> None:
    found = detector.detect([dog] * (MAX_SHOWN + 2), threshold=0.3)
    assert isinstance(found, list) and len(pixels(found._repr_html_())) == MAX_SHOWN
    assert "and 2 more results" in found._repr_html_()
    assert ResultList([1, 2])._repr_html_() == ""
    assert len(pixels(ds.detect(detector, [dog, dog])._repr_html_())) == 2


def test_evaluation_shows_its_tables() -> None:
    ground_truth = {
        "images": [{"id": 1, "width": 50, "height": 50, "file_name": "a.png"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": i, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0}
            for i in (1, 2)
        ],
        "categories": [{"id": 1, "name": EVIL}, {"id": 2, "name": "cat"}],
    }
    results = [{"image_id": 1, "category_id": 2, "bbox": [0, 0, 20, 20], "score": 0.9}]
    evaluation = average_precision(ground_truth, results)
    html = evaluation._repr_html_()
    assert ">50.0<" in html and ">cat<" in html and "<script" not in html
    assert repr(evaluation) == "Evaluation(AP 50.0, AP50 50.0, AP75 50.0; 1 images, 2 boxes)"


def test_outcome_shows_its_curves(tmp_path: Path) -> None:
    outcome = Outcome(tmp_path, 3, 40, 0.25, 2)
    assert "25.0 after epoch 2" in outcome._repr_html_() and not pixels(outcome._repr_html_())
    Image.new("RGB", (40, 30)).save(tmp_path / "curves.png")
    assert pixels(outcome._repr_html_())[0].shape[:2] == (30, 40)
    assert "not evaluated" in replace(outcome, best_ap=None)._repr_html_()


def test_tables_are_short_and_escaped() -> None:
    html = html_table(("a<b",), [(1.23456,), ("x" * 500,)], title="&")
    assert "a&lt;b" in html and "1.23<" in html and "<b>&amp;</b>" in html and len(html) < 400
