"""The engine interface: whatever runs the model, detections and traces come out the same."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detrscope.core.errors import UserError
from detrscope.core.probe import Probe
from detrscope.core.types import Outputs
from detrscope.inference.detector import Detector
from detrscope.inference.engine import Engine
from detrscope.inference.load_detector import load
from detrscope.inference.torch_engine import TorchEngine, require_torch_engine
from tests.support.equality import same
from tests.support.traces import detector_of, picture


class StoredEngine:
    """Engine without a model: it returns outputs and records that were stored earlier."""

    name = "stored"
    device = "nowhere"
    precision = "fp32"

    def __init__(self, engine: Engine, images: Tensor) -> None:
        self.sites, self.feature_sites = engine.sites, engine.feature_sites
        self.stored = Probe(features="*")
        self.outputs = engine.predict(images, probe=self.stored)

    def predict(self, images: Tensor, padding: Tensor | None = None, probe: Probe | None = None) -> Outputs:
        if probe is not None:
            probe.check(self.sites, self.feature_sites)
            probe.levels, probe.shapes = self.stored.levels, self.stored.shapes
            for site, record in self.stored.records.items():
                if probe.records_site(site):
                    probe.keep(site, record)
            for site, features in self.stored.feature_maps.items():
                if probe.records_features_of(site):
                    probe.keep_features(site, features)
        return self.outputs


def both(variant: str) -> tuple[Detector, Detector]:
    """A detector that PyTorch runs, and one that returns what it stored of the same image."""
    detector = detector_of(variant)
    images = detector.card.preprocessing.apply(picture())[None]
    return detector, Detector(StoredEngine(detector.engine, images), detector.card)


@pytest.mark.parametrize("variant", ["detr-r18", "sprint-deformable-n"])
def test_another_engine_gives_the_same_detections_and_maps(variant: str) -> None:
    reference, stored = both(variant)
    assert same(stored.detect(picture(), 0.0), reference.detect(picture(), 0.0))
    expected, trace = (d.trace(picture(), features="backbone.*", values=True) for d in (reference, stored))
    assert same(dict(trace.records), dict(expected.records)) and same(trace.features, expected.features)
    assert same(trace.detections(0.0), expected.detections(0.0)) and trace.shapes == expected.shapes
    assert same(trace.cross_attention(3).parts, expected.cross_attention(3).parts)
    assert same(trace.self_attention(query=2).values, expected.self_attention(query=2).values)
    assert same(trace.self_attention(point=(40, 20)).parts, expected.self_attention(point=(40, 20)).parts)
    assert same(trace.rollout(query=1).parts, expected.rollout(query=1).parts)
    assert stored.trace(picture(), sites="decoder.*.cross").sites == ("decoder.0.cross", "decoder.1.cross")
    with pytest.raises(UserError, match=r"site 'decoder\.9\.cross' is not in this model"):
        stored.trace(picture(), sites="decoder.9.cross")


def test_what_needs_gradients_names_the_engine() -> None:
    _, stored = both("detr-r18")
    with pytest.raises(UserError, match=r"saliency needs PyTorch, but engine 'stored' runs this model"):
        require_torch_engine(stored.engine, "saliency")
    assert repr(stored) == "Detector(detr-r18, 3 classes, stored, nowhere, fp32)"


def test_torch_engine_names_its_device_and_precision() -> None:
    engine = detector_of("detr-r18").engine
    assert isinstance(engine, TorchEngine)
    assert (engine.name, engine.device, engine.precision) == ("torch", "cpu", "fp32")
    optimised = TorchEngine.optimised(engine.model, torch.device("cpu"), torch.bfloat16)
    assert optimised.precision == "bf16"


def test_openvino_compiles_for_the_only_size_of_a_model() -> None:
    pytest.importorskip("openvino")
    from detrscope.inference.openvino_engine import OpenVinoEngine, fix_shape, without_attention

    any_size = load("sprint-dense-n", engine="openvino").engine
    assert isinstance(any_size, OpenVinoEngine)
    metadata, size = any_size.metadata, (96, 128)
    preprocessing = replace(metadata.card.preprocessing, fit="exact", box=size)
    metadata = replace(metadata, card=replace(metadata.card, preprocessing=preprocessing))
    one_size = OpenVinoEngine(any_size.model, metadata, "fp32", "graph")
    images = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(0))
    for engine_input in (images[:1], images, images[:1, :, :64]):  # of that size, a batch, another size
        found, expected = one_size.predict(engine_input), any_size.predict(engine_input)
        assert (found.logits - expected.logits).abs().max() < 1e-4
        assert (found.boxes_cxcywh - expected.boxes_cxcywh).abs().max() < 1e-4

    graph = without_attention(any_size.model)
    assert any(output.get_partial_shape().is_dynamic for node in graph.get_ops() for output in node.outputs())
    fix_shape(graph, (1, 3, *size))
    assert all(output.get_partial_shape().is_static for node in graph.get_ops() for output in node.outputs())


def test_signals_arrive_after_openvino_engines_are_gone() -> None:
    """On CPUs with AMX, OpenVINO gives its thread a stack for signals, which must not outlive its memory."""
    pytest.importorskip("openvino")
    code = """
import gc, signal, subprocess
import numpy as np
import detrscope as ds
signal.signal(signal.SIGCHLD, lambda *_: None)
import faulthandler; faulthandler.enable()  # handlers run on a stack of their own then
image = np.zeros((64, 64, 3), np.uint8)
detectors = [ds.load("sprint-dense-n", engine="openvino") for _ in range(2)]
[detector.detect(image) for detector in detectors]
while detectors:
    del detectors[0]
    gc.collect()
subprocess.run(["true"], check=True)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
