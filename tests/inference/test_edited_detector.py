"""A detector with interventions: detections, traces, batches, video frames and evaluation have them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import detrscope as ds
from detrscope.checkpoints.load import load_model
from detrscope.checkpoints.native import save_checkpoint
from detrscope.commands.edits import read_edits
from detrscope.commands.evaluate import evaluate
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.probe import Probe
from detrscope.core.tiling import Tiling
from detrscope.core.trace_file import load_trace
from detrscope.inference.detector import Detector
from detrscope.inference.load_detector import LoadOptions, open_detector
from tests.support.datasets import MakeDataset
from tests.support.traces import detector_of, picture

MUTED, REGION = "decoder.*.cross: heads 0,1 x0", (10.0, 10.0, 50.0, 40.0)


@pytest.fixture(scope="module", params=["sprint-dense-n", "deformable-detr-r50"])
def detector(request: pytest.FixtureRequest) -> Detector:
    return detector_of(request.param)


@pytest.mark.parametrize("edit", [MUTED, "*: hide region 10,10,50,40"])
def test_detections_equal_those_of_a_trace_with_the_edit(detector: Detector, edit: str) -> None:
    image = picture()
    trace = detector.trace(image, edits=[edit])
    edited = detector.edited([edit])
    found = edited.detect(image, 0.0)
    assert torch.allclose(found.scores, trace.detections(0.0).scores, atol=1e-6)
    assert not torch.allclose(found.scores, detector.detect(image, 0.0).scores, atol=1e-6)
    again = edited.trace(image)
    assert again.edits == trace.edits == edited.edits and torch.equal(again.logits, trace.logits)
    assert torch.equal(edited.unedited.detect(image, 0.0).scores, detector.detect(image, 0.0).scores)
    assert "1 edits" in repr(edited)


def test_hiding_a_region_by_any_name(detector: Detector) -> None:
    image = picture()
    texts = read_edits(hide=["10,10,50,40"])
    for edit in (ds.hide_region(REGION), ds.Bias.hide(REGION), ds.KeyBias("*", region_xyxy=REGION)):
        assert (edit,) == texts
    assert torch.equal(
        detector.trace(image, edits=["*: hide region 10,10,50,40"]).logits,
        detector.trace(image, edits=texts).logits,
    )


def test_a_region_follows_the_crop(detector: Detector) -> None:
    image = picture(60, 100)
    cropped = detector.trace(image, edits=[ds.hide_region((40, 10, 70, 40))], crop_xyxy=(20, 5, 90, 55))
    alone = detector.trace(image[:, 5:55, 20:90], edits=[ds.hide_region((20, 5, 50, 35))])
    assert torch.equal(cropped.logits, alone.logits)


def test_predict_applies_edits_and_fills_a_probe(detector: Detector) -> None:
    images = torch.randn(2, 3, 96, 128)
    edited, probe = detector.edited([MUTED]), Probe("decoder.0.cross")
    outputs = edited.predict(images, probe=probe)
    assert torch.equal(outputs.logits, edited.predict(images).logits)
    assert not torch.allclose(outputs.logits, detector.predict(images).logits, atol=1e-5)
    assert (probe.records["decoder.0.cross"].rows()[:, :2] == 0).all()


def test_evaluation_has_the_edits_and_regions_have_no_meaning_there(
    make_dataset: MakeDataset,
) -> None:
    tiny = detector_of("sprint-dense-n")
    classes = ClassTable((1, 7, 900), ("class-1", "class-7", "class-900"))
    detector = Detector(tiny.engine, replace(tiny.card, classes=classes))
    data = str(make_dataset())
    with pytest.raises(UserError, match="a region is of one image"):
        evaluate(detector.edited(["*: hide region 0,0,9,9"]), data, split="train")
    with pytest.raises(UserError, match="a region is of one image"):
        detector.edited(["*: hide region 0,0,9,9"]).detect(picture(), tiling=Tiling(((32, 40),)))
    assert (
        evaluate(detector.edited([MUTED]), data, split="train").images
        == evaluate(detector, data, split="train").images
    )


def test_options_of_loading_carry_edits(tmp_path: Path) -> None:
    image = picture()
    options = LoadOptions(device="cpu", edits=read_edits([MUTED]))
    edited = open_detector("sprint-dense-n", options)
    assert edited.edits == options.edits
    plain = open_detector("sprint-dense-n", LoadOptions(device="cpu"))
    assert not torch.equal(edited.detect(image, 0.0).scores, plain.detect(image, 0.0).scores)
    with pytest.raises(UserError, match="no effect on a detector"):
        open_detector(plain, options)


def test_swaps_come_from_a_trace(detector: Detector, tmp_path: Path) -> None:
    other = detector.trace(picture().flip(2), values=True)
    path = other.save(tmp_path / "other one.trace")
    site = other.sites[-1]
    image = picture()
    whole = read_edits(swaps=[f"{site} from {path}"])
    swapped = detector.trace(image, edits=whole)
    assert torch.allclose(swapped.record(site).rows(), other.record(site).rows(), atol=1e-6)
    value = read_edits(swaps=[f"{site} value from {path}"])
    assert not torch.equal(detector.trace(image, edits=value).logits, detector.trace(image).logits)
    for text, message in (
        ("decoder.9.cross from {}", "site 'decoder.9.cross' was not recorded in"),
        ("decoder.0.cross keys from {}", "no part 'keys'; expected one of"),
        ("decoder.0.cross", "expected SITE"),
    ):
        with pytest.raises(UserError, match=message):
            read_edits(swaps=[text.format(path)])
    plain = detector.trace(image).save(tmp_path / "plain.trace")
    with pytest.raises(UserError, match="has no values of"):
        read_edits(swaps=[f"{site} value from {plain}"])


def test_traces_keep_their_edits(detector: Detector, tmp_path: Path) -> None:
    edits = read_edits([MUTED], hide=["10,10,50,40"])
    path = detector.trace(picture(), sites="decoder.*", edits=edits).save(tmp_path / "a.trace")
    assert load_trace(path).edits == edits


def test_wrong_edits_are_named(detector: Detector) -> None:
    with pytest.raises(UserError, match=r"site 'decoder\.\*\.crss' is not in this model; did you mean"):
        detector.edited(["decoder.*.crss: x0"])
    with pytest.raises(UserError, match=r"head 9 is outside 0\.\.3"):
        detector.edited(["decoder.*.cross: heads 9 x0"]).detect(picture())


def test_thresholds_of_an_edited_model_are_not_stored(tmp_path: Path, make_dataset: MakeDataset) -> None:
    path = tmp_path / "a.safetensors"
    loaded = load_model("sprint-dense-n")
    save_checkpoint(path, loaded.model, loaded.card)
    data = str(make_dataset(categories=(1,)).parent / "squares")
    options = LoadOptions(device="cpu", edits=read_edits([MUTED]))
    before = path.read_bytes()
    with pytest.raises(UserError, match="do not belong in its checkpoint"):
        evaluate(str(path), data, split="train", store_thresholds=True, load_options=options)
    assert path.read_bytes() == before
