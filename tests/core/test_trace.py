"""One look as data: what it says, what it refuses, and that a file holds all of it."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import detrscope as ds
from detrscope.checkpoints.native import save_checkpoint
from detrscope.core.edits import Bias, Gain, Swap
from detrscope.core.errors import UserError
from detrscope.core.geometry import Geometry
from detrscope.core.probe import Probe
from detrscope.core.records import DeformableRecord
from detrscope.core.trace_file import HEADER
from detrscope.core.types import Detections, Level, Outputs, Target
from detrscope.inference.detector import Detector
from detrscope.inference.torch_engine import TorchEngine
from detrscope.inference.tracing import trace_image
from detrscope.lens.incoming_attention import IncomingAttention
from detrscope.ops.deformable import sample
from detrscope.trace_interface import Trace
from tests.support.equality import same
from tests.support.tiny_models import built, distinct, padded_batch, selects_tokens, tiny
from tests.support.traces import detector_of, picture

every_variant = pytest.mark.parametrize("variant", distinct())


@cache
def looked(variant: str) -> tuple[Trace, Detections]:
    """A trace and all detections of one model: not to be changed."""
    detector = detector_of(variant)
    return detector.trace(picture()), detector.detect(picture(), 0.0)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return detector_of("detr-r18").trace(
        picture(),
        features=["backbone.layer4.*"],
        edits=[Gain("encoder.0.self", heads=(1,)), Bias("decoder.1.cross", torch.zeros(1, 1, 1, 6))],
        targets=Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.2, 0.2]])),
        explain=[2],
    )


@every_variant
def test_trace_and_detect_give_the_same_detections(variant: str, tmp_path: Path) -> None:
    trace, found = looked(variant)
    seen = trace.detections(0.0)
    torch.testing.assert_close(seen.boxes_xyxy, found.boxes_xyxy, atol=1e-3, rtol=0)
    assert torch.equal(seen.scores, found.scores) and seen.names == found.names
    assert torch.equal(seen.query_ids, found.query_ids) and torch.equal(seen.labels, found.labels)
    assert trace.sites == built(variant).model.sites == trace.model_sites
    assert trace.picked == selects_tokens(variant)
    loaded = Trace.load(trace.save(tmp_path / "one.trace"))
    assert same(loaded, trace)
    assert "attention" in trace.describe() and all(site in trace.describe() for site in trace.sites)


@every_variant
def test_maps_of_every_layer_head_and_level(variant: str) -> None:
    trace, _ = looked(variant)
    dense = not any(isinstance(r, DeformableRecord) for r in trace.records.values())
    for layer in (0, -1):
        merged = trace.cross_attention(3, layer)
        heads = trace.record(trace.site("decoder.cross", layer)).shape[0]
        each = [trace.cross_attention(3, layer, head) for head in range(heads)]
        torch.testing.assert_close(torch.stack([m.values for m in each]).mean(0), merged.values)
        greatest = trace.cross_attention(3, layer, merge="max")
        if len(trace.levels) == 1:
            torch.testing.assert_close(torch.stack([m.values for m in each]).amax(0), greatest.values)
        by_level = [trace.cross_attention(3, layer, level=i) for i in range(len(trace.levels))]
        assert [tuple(m.values.shape) for m in by_level] == [tuple(level) for level in trace.levels]
        assert sum(m.mass for m in by_level) == pytest.approx(merged.mass, abs=1e-5)
        if dense:
            assert merged.mass == pytest.approx(1, abs=1e-5)
        assert float(merged.values.sum()) == pytest.approx(merged.mass, abs=1e-5)
        for smooth in (True, False):
            on_image = merged.on_image(smooth)
            assert on_image.shape == (50, 90) and float(on_image.sum()) == pytest.approx(
                merged.mass, abs=1e-4
            )
    among = trace.self_attention(query=2, layer=-1)
    assert among.values.shape == (7,) and among.mass == pytest.approx(1, abs=1e-5)
    assert among.on_image().shape == (50, 90) and float(among.on_image().sum()) <= 1 + 1e-5
    everybody = trace.cross_attention()
    torch.testing.assert_close(
        everybody.values, torch.stack([trace.cross_attention(q).values for q in range(7)]).mean(0)
    )


def test_row_equals_row_of_the_dense_map(trace: Trace) -> None:
    """Encoder self-attention at a pixel, against softmax(QK^T) written out here."""
    record = trace.record("encoder.1.self")
    whole = (record.query[0] @ record.key[0].transpose(1, 2) * record.scale).softmax(-1)  # [h, S, S]
    level = trace.levels[0]
    x, y = 70.0, 20.0
    token = int(y / 50 * level.height) * level.width + int(x / 90 * level.width)
    for head in (None, 2):
        expected = whole.mean(0) if head is None else whole[head]
        found = trace.self_attention(point=(x, y), layer=1, head=head)
        torch.testing.assert_close(found.values, expected[token].view(*level))
    assert trace.self_attention(point=(x, y)).selection.queries == (token,)
    muted = trace.self_attention(point=(x, y), layer=0, head=1)
    assert muted.mass == 0, "the edit muted this head"
    assert "2 edits" in muted.caption and "head 1 of 4" in muted.caption


def test_rows_of_a_bf16_model_are_exact() -> None:
    """What was kept has eight bits; what is made of it has 24."""
    loaded = tiny("detr-r18")
    detector = Detector(TorchEngine.optimised(loaded.model, torch.device("cpu"), torch.bfloat16), loaded.card)
    trace = detector.trace(picture())
    record = trace.record("decoder.1.cross")
    assert record.query.dtype == torch.bfloat16
    scores = torch.einsum("hd,hsd->hs", record.query[0, :, 3].double(), record.key[0].double()) * record.scale
    expected = scores.softmax(-1)
    found = torch.stack([trace.cross_attention(3, head=h).values.flatten() for h in range(4)])
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)
    assert trace.cross_attention(3).mass == pytest.approx(1, abs=1e-6)
    column = IncomingAttention(record).of(torch.tensor([5]))[..., 0]
    torch.testing.assert_close(column[:, 3].double(), expected[:, 5], atol=1e-6, rtol=1e-5)


def test_trace_round_trips_through_a_file(trace: Trace, tmp_path: Path) -> None:
    noted = replace(trace, notes={"epoch": 10, "run": "a"}, source="photo.jpg")
    loaded = Trace.load(noted.save(tmp_path / "t.trace"))
    assert same(loaded, noted)
    assert isinstance(loaded.edits[0], Gain) and loaded.edits[0].heads == (1,)
    assert set(loaded.features) == {
        f"backbone.layer4.{b}.{c}" for b in (0, 1) for c in ("conv1", "conv2")
    } | {"backbone.layer4.0.downsample"}
    assert loaded.gradients[0].query == 2 and loaded.gradients[0].sites["decoder.1.cross"].shape == (1, 7, 32)
    assert [p.name for p in tmp_path.iterdir()] == ["t.trace"], "a temporary file was left"
    small = Trace.load(noted.save(tmp_path / "h.trace", half=True))
    assert (tmp_path / "h.trace").stat().st_size < 0.75 * (tmp_path / "t.trace").stat().st_size
    exact, rounded = noted.cross_attention(1).values, small.cross_attention(1).values
    torch.testing.assert_close(rounded, exact, atol=0.01 * float(exact.max()), rtol=0)
    assert small.logits.dtype == torch.float32


def test_swaps_and_deformable_records_round_trip(trace: Trace, tmp_path: Path) -> None:
    levels = (Level(2, 3), Level(1, 2))
    generator = torch.Generator().manual_seed(0)
    edits = [
        Swap("decoder.0.self", "key", torch.rand(1, 4, 7, 8)),
        Gain("decoder.0.cross", 0.5, heads=(1,), keys=(0, 3)),
        Gain("decoder.0.cross", 0.5, points=(2,), levels=(0,)),
    ]
    probe = Probe(sites=["decoder.0.cross"], edits=edits)
    sample(
        torch.rand(1, 8, 4, 8, generator=generator),
        torch.rand(1, 7, 4, 3, 2, generator=generator),
        torch.rand(1, 7, 4, 3, generator=generator),
        levels=levels,
        point_levels=(0, 1, 0),
        reference=torch.rand(1, 7, 2, 2, generator=generator),
        site="decoder.0.cross",
        probe=probe,
    )
    outputs = Outputs(trace.logits[:, None], trace.boxes_cxcywh[:, None])
    probe.levels = levels
    geometry, sites = trace.geometry, trace.model_sites
    made = Trace.of_probe(
        probe, outputs, card=trace.card, geometry=geometry, image=trace.image, model_sites=sites
    )
    loaded = Trace.load(made.save(tmp_path / "d.trace", half=True))
    record = loaded.record("decoder.0.cross")
    assert (
        isinstance(record, DeformableRecord)
        and record.levels == levels
        and isinstance(record.levels[0], Level)
    )
    assert torch.equal(record.points, made.record("decoder.0.cross").points), "places must stay exact"
    assert record.key_group is not None and record.key_group.dtype == torch.int64
    torch.testing.assert_close(record.rows(), made.record("decoder.0.cross").rows(), atol=1e-3, rtol=1e-2)
    assert same(loaded.edits, made.edits)
    one = made.cross_attention(0, 0)
    assert one.values.shape == (2, 3) and len(one.parts) == 2 and 0 < one.mass <= 1 + 1e-6
    assert float(one.on_image().sum()) == pytest.approx(one.mass, abs=1e-5)
    assert "never computed" in made.describe()


def test_trace_of_one_image_in_a_padded_batch() -> None:
    """The second image of a batch, padded at two sides: no mass on padding, the same as it is alone."""
    loaded = tiny("detr-r18")
    batch = padded_batch()
    probe = Probe()
    with torch.no_grad():
        outputs = loaded.model(batch, probe=probe)
    content = (32, 64)
    geometry = Geometry.of_resize(32, 64, content).padded_to(64, 96)
    image = torch.zeros(3, *content, dtype=torch.uint8)
    sites = loaded.model.sites
    trace = Trace.of_probe(
        probe, outputs, 1, card=loaded.card, geometry=geometry, image=image, model_sites=sites
    )
    one = trace.cross_attention(0)
    assert (
        one.values.shape == (2, 3) and one.values[1:].abs().max() == 0 and one.values[:, 2:].abs().max() == 0
    )
    assert float(one.on_image().sum()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(trace.logits, outputs.logits[:, 1])
    record = probe.records["decoder.1.cross"]
    torch.testing.assert_close(trace.record("decoder.1.cross").rows(), record.rows()[1:])


def test_sites_and_queries_may_be_single_or_lists(trace: Trace) -> None:
    one = detector_of("detr-r18").trace(picture(), sites="decoder.*.cross", features="backbone.conv1")
    assert one.sites == ("decoder.0.cross", "decoder.1.cross") and list(one.features) == ["backbone.conv1"]
    for query in (3, torch.tensor(3), np.int64(3), [3], torch.tensor([3])):
        assert torch.equal(trace.cross_attention(query).values, trace.cross_attention(3).values)
    assert repr(trace.cross_attention(3)).startswith(
        "AttentionMap(detr-r18, 2 edits, decoder.1.cross, query 3"
    )
    assert "decoder.1.cross" in trace._repr_html_()


@pytest.mark.parametrize("variant", ["detr-r18", "deformable-detr-r50"])
def test_values_are_recorded_on_request(variant: str) -> None:
    detector = detector_of(variant)
    without, with_ = detector.trace(picture()), detector.trace(picture(), values=True)
    for site in without.sites:
        one, other = without.record(site), with_.record(site)
        assert torch.equal(one.rows(), other.rows()) and one.shape == other.shape
        assert other.output().shape == (1, one.shape[1], 32)
        with pytest.raises(UserError, match="this record has no values; trace with values=True"):
            one.output()


def test_model_in_training_can_be_traced() -> None:
    """Parameters that learn, norms not folded: the same maps as the detector's."""
    loaded = tiny("sprint-dense-n")
    trained = Trace.of(
        trace_image(TorchEngine(loaded.model.eval()), loaded.card, picture(), Probe(["decoder.*"]))
    )
    assert not trained.logits.requires_grad and all(p.requires_grad for p in loaded.model.parameters())
    detector = Detector(
        TorchEngine.optimised(copy.deepcopy(loaded.model), torch.device("cpu"), torch.float32), loaded.card
    )
    seen = detector.trace(picture(), sites=["decoder.*"])
    torch.testing.assert_close(trained.logits, seen.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        trained.cross_attention(2).values, seen.cross_attention(2).values, atol=1e-4, rtol=0
    )


def test_wrong_arguments_are_one_line_errors(trace: Trace) -> None:
    detector = detector_of("detr-r18")
    partly = detector.trace(picture(), sites=["decoder.*.cross"])
    assert partly.sites == ("decoder.0.cross", "decoder.1.cross")
    cases = [
        (
            lambda: detector.trace(picture(), sites=["decoder.7.cross"]),
            "site 'decoder.7.cross' is not in this model",
        ),
        (
            lambda: detector.trace(picture(), sites=["x"]),
            r"site 'x' is not in this model; it has encoder.0.self to encoder.1.self, decoder.0.self to ",
        ),
        (lambda: detector.trace(picture(), features=["backbone.conv9"]), "did you mean 'backbone.conv1'"),
        (lambda: detector.trace(picture(), explain=[7]), "query 7: this model has queries 0 to 6"),
        (lambda: detector.trace(picture(), explain=[(1, 3)]), "class index 3: this model has classes 0 to 2"),
        (lambda: detector.trace(picture(), crop_xyxy=(0, 0, 91, 20)), "crop 0, 0, 91, 20: does not lie in"),
        (
            lambda: partly.self_attention(point=(1, 1)),
            "'encoder.1.self' was not recorded; this trace has decoder.0",
        ),
        (lambda: partly.record("decoder.0.cros"), "did you mean 'decoder.0.cross'"),
        (lambda: trace.cross_attention(7), "query 7: this model has queries 0 to 6"),
        (lambda: trace.cross_attention([]), "query: an empty list"),
        (lambda: trace.cross_attention(0, layer=2), "layer 2: this model has 2 layers with decoder.cross"),
        (lambda: trace.cross_attention(0, head=4), "head 4: there are 4, 0 to 3"),
        (lambda: trace.cross_attention(0, level=1), "level 1: there are 1, 0 to 0"),
        (lambda: trace.self_attention(), "give point="),
        (lambda: trace.self_attention(point=(1, 1), query=1), "give point="),
        (lambda: trace.self_attention(point=(91, 1)), r"point \(91, 1\) is outside"),
        (lambda: trace.detections(layer=2), "layer 2: there are 2, 0 to 1"),
    ]
    for call, message in cases:
        with pytest.raises(UserError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_crop_is_traced_as_an_image_of_its_own() -> None:
    detector = detector_of("detr-r18")
    trace = detector.trace(picture(), crop_xyxy=(10, 5, 80, 45))
    alone = detector.detect(picture()[:, 5:45, 10:80], 0.0)
    shifted = alone.boxes_xyxy + torch.tensor([10.0, 5.0, 10.0, 5.0])
    torch.testing.assert_close(trace.detections(0.0).boxes_xyxy, shifted, atol=1e-3, rtol=0)
    over = trace.cross_attention(0).on_image()
    assert (
        over.shape == (50, 90)
        and over[:5].abs().max() == 0
        and float(over.sum()) == pytest.approx(1, abs=1e-4)
    )


def edited_header(path: Path, out: Path, change: object) -> Path:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[HEADER])
    tensors = load_file(path)
    change(header, tensors)  # type: ignore[operator]
    save_file(tensors, out, metadata={HEADER: json.dumps(header)})
    return out


def test_damaged_and_foreign_files_are_refused(trace: Trace, tmp_path: Path) -> None:
    good = trace.save(tmp_path / "good.trace")
    data = good.read_bytes()
    (tmp_path / "cut.trace").write_bytes(data[: len(data) // 2])
    (tmp_path / "stub.trace").write_bytes(data[:4])
    (tmp_path / "empty.trace").write_bytes(b"")
    (tmp_path / "text.trace").write_text("hello, this is not a trace at all")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.trace")
    loaded = tiny("detr-r18")
    save_checkpoint(tmp_path / "model.trace", loaded.model, loaded.card)
    save_file({"a": torch.zeros(1)}, tmp_path / "bad.trace", metadata={HEADER: "{"})
    cases = {
        "cut": "not a trace, or damaged or cut short",
        "stub": "not a trace, or damaged or cut short",
        "empty": "not a trace, or damaged or cut short",
        "text": "not a trace, or damaged or cut short",
        "foreign": "not a trace but another safetensors file",
        "model": "not a trace but a model's checkpoint",
        "bad": "its header cannot be read",
        "nowhere": "no such trace file",
    }

    def newer(h: dict, t: dict) -> None:
        h["version"] = 2

    def strange_part(h: dict, t: dict) -> None:
        h["trace"]["sounds"] = 1

    def strange_class(h: dict, t: dict) -> None:
        h["trace"]["geometry"]["$class"] = "Sphere"

    def strange_field(h: dict, t: dict) -> None:
        h["trace"]["geometry"]["depth"] = 1

    def lost_field(h: dict, t: dict) -> None:
        del h["trace"]["geometry"]["content"]

    def lost_tensor(h: dict, t: dict) -> None:
        del t["logits"]

    def other_shape(h: dict, t: dict) -> None:
        t["boxes_cxcywh"] = torch.zeros(1, 2, 4)

    def other_record(h: dict, t: dict) -> None:
        t["records/encoder.0.self/key"] = torch.zeros(1, 4, 5, 8)

    def other_values(h: dict, t: dict) -> None:
        t["records/encoder.0.self/value"] = torch.zeros(1, 4, 5, 8)

    def no_image(h: dict, t: dict) -> None:
        h["trace"]["image"] = None

    def strange_whole(h: dict, t: dict) -> None:
        h["sounds"] = 1

    changed = {
        strange_whole: "has a part 'sounds'",
        newer: "in format 2; this version reads format 1",
        strange_part: "has a part 'sounds'",
        strange_class: "'Sphere' is not known",
        strange_field: "Geometry has a field 'depth'",
        lost_field: "Geometry lacks its field 'content'",
        lost_tensor: "tensor 'logits' is missing",
        other_shape: "damaged: boxes",
        other_record: "5 keys at 'encoder.0.self' for 6 tokens",
        other_values: "5 values at 'encoder.0.self' for 6 keys",
        no_image: "its parts do not fit together",
    }
    for change, message in changed.items():
        cases[change.__name__] = message
        edited_header(good, tmp_path / f"{change.__name__}.trace", change)
    for name, message in cases.items():
        with pytest.raises(UserError, match=message) as error:
            Trace.load(tmp_path / f"{name}.trace")
        assert str(error.value).startswith(str(tmp_path / name)) and "\n" not in str(error.value)


def test_failed_save_leaves_no_file(trace: Trace, tmp_path: Path) -> None:
    path = trace.save(tmp_path / "t.trace")
    before = path.read_bytes()
    (tmp_path / "folder.trace").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        trace.save(tmp_path / "folder.trace")
    assert (
        sorted(p.name for p in tmp_path.iterdir()) == ["folder.trace", "t.trace"]
        and path.read_bytes() == before
    )


def test_loading_imports_no_model_code(trace: Trace, tmp_path: Path) -> None:
    path = trace.save(tmp_path / "t.trace")
    code = (
        "import sys, detrscope as ds; t = ds.Trace.load(sys.argv[1]); t.cross_attention(1).on_image(); "
        "wrong = [m for m in sys.modules if m.startswith('detrscope.') and m.split('.')[1] in "
        "('families', 'blocks', 'ops', 'data')]; sys.exit(str(wrong) if wrong else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_large_original_is_stored_as_jpeg(trace: Trace, tmp_path: Path) -> None:
    big = torch.zeros(3, 1100, 1000, dtype=torch.uint8)
    big[:, 300:500, 200:700] = 200
    path = replace(trace, original=big, records={}, gradients=(), features={}).save(tmp_path / "big.trace")
    assert path.stat().st_size < 200_000
    kept = Trace.load(path).original
    assert kept is not None and (kept.int() - big.int()).abs().max() <= 16


def test_maps_draw_and_save(trace: Trace, tmp_path: Path) -> None:
    for name, one in {
        "cross": trace.cross_attention(1),
        "self": trace.self_attention(point=(10, 10)),
        "queries": trace.self_attention(query=1),
    }.items():
        path = one.save(tmp_path / f"{name}.png")
        assert path.stat().st_size > 1000
    with pytest.raises(UserError, match=r"cannot save an image as '\.txt'"):
        trace.cross_attention(1).save(tmp_path / "a.txt")
    assert ds.Trace is Trace
