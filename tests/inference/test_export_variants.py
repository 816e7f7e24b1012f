"""Exported graphs of every variant: predictions, records and edits equal PyTorch's, in ONNX Runtime and in OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch

from detrscope.checkpoints.load import load_model
from detrscope.checkpoints.native import Loaded
from detrscope.core.edits import Bias, Edit, Gain, KeyBias
from detrscope.core.errors import UserError
from detrscope.core.probe import Probe
from detrscope.core.records import DeformableRecord
from detrscope.core.types import Outputs
from detrscope.data.drawn_dogs import write_drawn
from detrscope.data.open_dataset import open_dataset
from detrscope.explain.explainers import choose_methods
from detrscope.explain.faithfulness import FaithfulnessOptions, measure_faithfulness
from detrscope.inference.detector import Detector
from detrscope.inference.engine import Engine
from detrscope.inference.export.onnx_graph import build_onnx
from detrscope.inference.graph_engine import GraphEngine
from detrscope.inference.onnx_engine import OnnxEngine, read_metadata
from detrscope.inference.openvino_engine import OpenVinoEngine, openvino_of_onnx
from detrscope.inference.torch_engine import TorchEngine
from tests.support.tiny_models import distinct, tiny

SHAPES = ((1, 64, 96), (3, 96, 64), (1, 130, 71))  # batch, height, width: none is that of the export
Engines = tuple[TorchEngine, tuple[GraphEngine, ...]]


@pytest.fixture(scope="module", params=distinct())
def engines(request: pytest.FixtureRequest) -> Engines:
    """PyTorch, and the exported graph in ONNX Runtime and in OpenVINO; all tests of a variant run one after another."""
    return export_engines(request.param)


@pytest.fixture(scope="module")
def shipped() -> Engines:
    """The trained model: with random weights, rounding decides which of nearly equal queries are selected."""
    return export_engines("sprint-dense-n", load_model("sprint-dense-n"))


def export_engines(variant: str, loaded: Loaded | None = None) -> Engines:
    loaded = loaded or tiny(variant)
    graph = build_onnx(loaded.model, loaded.card, attention=True)
    metadata = read_metadata(graph, variant)
    # OpenVINO's graph for images of one size serves the first of the shapes, and that for any size the others.
    preprocessing = replace(metadata.card.preprocessing, fit="exact", box=SHAPES[0][1:])
    metadata = replace(metadata, card=replace(metadata.card, preprocessing=preprocessing))
    model = openvino_of_onnx(graph, metadata)
    exported = (OnnxEngine(graph, "auto", variant), OpenVinoEngine(model, metadata, "fp32", variant))
    return TorchEngine(loaded.model), exported


def images(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height))


def assert_close(found: Outputs, expected: Outputs) -> None:
    assert (found.logits - expected.logits).abs().max() < 1e-3
    assert (found.boxes_cxcywh - expected.boxes_cxcywh).abs().max() < 1e-4
    assert (found.proposals is None) == (expected.proposals is None)


def traced(engine: Engine, edits: Sequence[Edit] = ()) -> tuple[Outputs, Probe]:
    probe = Probe(None, edits, values=False)
    return engine.predict(images(*SHAPES[0]), probe=probe), probe


def test_predictions_equal_pytorch_at_any_size(engines: Engines) -> None:
    reference, exported = engines
    for shape in SHAPES:
        expected = reference.predict(images(*shape))
        for engine in exported:
            found = engine.predict(images(*shape))
            assert (found.logits - expected.logits).abs().max() < 1e-3
            assert (found.boxes_cxcywh - expected.boxes_cxcywh).abs().max() < 1e-4
            assert (found.masks is None) == (expected.masks is None)
            if found.masks is not None and expected.masks is not None:
                assert (found.masks.logits - expected.masks.logits).abs().max() < 1e-3


def test_records_equal_pytorch(engines: Engines) -> None:
    reference, exported = engines
    expected, probe = traced(reference)
    for engine in exported:
        assert engine.sites == reference.sites
        found, other = traced(engine)
        assert_close(found, expected)
        assert (other.levels, other.shapes) == (probe.levels, probe.shapes)
        for site, record in probe.records.items():
            again = other.records[site]
            assert type(again) is type(record) and again.shape == record.shape
            assert (again.rows() - record.rows()).abs().max() < 1e-3, site
    some = Probe("decoder.*", values=False)
    exported[0].predict(images(*SHAPES[0]), probe=some)
    assert set(some.records) == {site for site in reference.sites if site.startswith("decoder.")}


def test_edits_equal_pytorch(engines: Engines) -> None:
    reference, exported = engines
    plain, probe = traced(reference)
    cross = "decoder.*.cross"
    tokens = sum(level.tokens for level in probe.levels)
    edits: list[Edit] = [
        Gain(cross, 0.3, heads=(1,)),
        Gain("*", 0.0, heads=(0, 2)),
        Gain(cross, 0.0, queries=(2, 3)),
        Gain(cross, 0.1, keys=tuple(range(0, tokens, 2)), heads=(1, 3)),
        Gain(cross, 2.0, levels=(len(probe.levels) - 1,)),
        Gain("decoder.*.self", 0.0, keys=(1,)),
        KeyBias("decoder.*.self", keys=(1,)),
        KeyBias(cross, 1.5, keys=tuple(range(1, tokens, 2)), heads=(0, 2)),
    ]
    record = probe.records[reference.sites[-1]]
    if isinstance(record, DeformableRecord):
        count = record.weights.shape[-1]
        edits += [Bias("decoder.1.cross", torch.randn(4, 1, count))]
        edits += [Gain(cross, 0.2, points=tuple(range(1, count, 3)), heads=(1,))]
    else:
        edits += [Bias(cross, torch.randn(tokens)), Bias("decoder.1.self", torch.randn(4, 1, 7))]
    for edit in edits:
        expected, edited = traced(reference, [edit])
        assert (expected.logits - plain.logits).abs().max() > 1e-3, "the edit changes nothing"
        for engine in exported:
            found, other = traced(engine, [edit])
            assert (found.logits - expected.logits).abs().max() < 1e-3, edit
            assert other.records.keys() == edited.records.keys()
            for site in (next(s for s in edited.records if fnmatchcase(s, edit.site)), reference.sites[-1]):
                difference = other.records[site].rows() - edited.records[site].rows()
                assert difference.abs().max() < 1e-3, (edit, site)
    assert torch.equal(traced(exported[0])[0].logits, traced(exported[0])[0].logits)


def test_padded_images_run_without_their_padding(engines: Engines) -> None:
    _, exported = engines
    batch = images(2, 64, 96)
    padding = torch.zeros(2, 64, 96, dtype=torch.bool)
    padding[1, 40:], padding[1, :, 70:] = True, True
    for engine in exported:
        found = engine.predict(batch, padding)
        alone = engine.predict(batch[1:, :, :40, :70])
        assert found.logits.shape[1] == 2
        assert torch.allclose(found.logits[:, 1], alone.logits[:, 0], atol=1e-4)


def test_threads_get_their_own_predictions(shipped: Engines) -> None:
    _, exported = shipped
    batches = [images(1, 64 + 32 * n, 96) for n in range(4)]
    for engine in exported:
        expected = [engine.predict(batch).logits for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda n: engine.predict(batches[n % 4]).logits, range(40)))  # noqa: B023
        assert all(torch.allclose(logits, expected[n % 4], atol=1e-5) for n, logits in enumerate(found))


def test_faithfulness_of_an_exported_model_equals_pytorchs(
    shipped: Engines, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference, exported = shipped
    card = exported[0].metadata.card
    write_drawn(tmp_path / "dogs", count=3, seed=3)
    dataset = open_dataset(str(tmp_path / "dogs"), "train")
    methods = ["attention, last layer"]
    detectors = [Detector(engine, card) for engine in (reference, exported[1])]
    curves = [
        measure_faithfulness(
            d, dataset, FaithfulnessOptions(count=3, threshold=0.3, steps=4, methods=methods, sanity=0)
        )
        for d in detectors
    ]
    for expected, found in zip(*(c.summaries for c in curves), strict=True):
        assert (found.method, found.where, found.what) == (expected.method, expected.where, expected.what)
        assert found.area == pytest.approx(expected.area, abs=1e-4)
    with pytest.raises(UserError, match="method 'relevance' needs PyTorch, but engine 'openvino'"):
        choose_methods(detectors[1], ["relevance"])
    assert "relevance" not in choose_methods(detectors[1], [])
    assert "left out, since engine openvino gives no gradients" in caplog.text
