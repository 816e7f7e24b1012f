"""Traces with fields of wrong types or that do not fit: refused when loaded, or usable; never broken later."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from detrscope.core.edits import Gain
from detrscope.core.errors import UserError
from detrscope.core.trace_file import HEADER
from detrscope.core.types import Target
from detrscope.trace_interface import Trace
from tests.support.traces import detector_of, picture

WRONG = (
    None,
    True,
    -7,
    10**400,
    2.5,
    float("nan"),
    "odd",
    [],
    [1],
    {},
    {"$tensor": "logits"},
    {"$tensor": 3},
)


def full_trace(variant: str) -> Trace:
    return detector_of(variant).trace(
        picture(20, 30),
        sites=["encoder.0.self", "decoder.*"],
        edits=[Gain("encoder.0.self", heads=(1,))],
        features=["backbone.conv1"],
        targets=Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.2, 0.2]])),
        explain=[2],
    )


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to everything in a JSON tree."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def use(trace: Trace) -> None:
    """Everything that a view asks."""
    trace.describe()
    trace.detections(0.0)
    assert trace.targets_xyxy is not None or trace.targets is None
    repr(trace)
    for kind in ("encoder.self", "decoder.self", "decoder.cross"):
        for site in trace.sites_of(kind):
            if site in trace.records:
                trace.record(site).rows()
    if any(site.endswith("cross") for site in trace.sites):
        trace.cross_attention(1).on_image()
    for edit in trace.edits:
        assert edit.describe()


@pytest.mark.parametrize("variant", ["detr-r18", "deformable-detr-r50"])
def test_wrong_header_values_are_refused(variant: str, tmp_path: Path) -> None:
    good = full_trace(variant).save(tmp_path / "good.trace")
    with safe_open(good, framework="pt") as file:
        header = json.loads(file.metadata()[HEADER])
    tensors = load_file(good)
    path = tmp_path / "bad.trace"
    refused = used = 0
    for number, place in enumerate(places(header)):
        if place[:3] == ("trace", "card", "config"):
            continue  # a trace is read without its model
        for value in WRONG if len(place) <= 2 else WRONG[number % 5 :: 5]:
            tree = copy.deepcopy(header)
            node = tree
            for key in place[:-1]:
                node = node[key]
            node[place[-1]] = value
            save_file(tensors, path, metadata={HEADER: json.dumps(tree)})
            try:
                trace = Trace.load(path)
            except UserError as error:
                refused += 1
                assert str(error).startswith(str(path)) and "\n" not in str(error), (place, value)
                continue
            with contextlib.suppress(UserError):
                use(trace)
            used += 1
    assert refused > 5 * used, "most of it must be noticed"


@pytest.mark.parametrize("variant", ["detr-r18", "deformable-detr-r50"])
def test_tensors_of_wrong_shape_or_type(variant: str, tmp_path: Path) -> None:
    good = full_trace(variant).save(tmp_path / "good.trace")
    with safe_open(good, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(good)
    path = tmp_path / "bad.trace"
    for name, tensor in tensors.items():
        for other in (
            *(torch.zeros(0), torch.tensor(1.0), torch.zeros(2, 3), tensor[None], tensor.reshape(-1)),
            *(tensor.bool() if tensor.is_floating_point() else tensor.float(), tensor[:0]),
        ):
            save_file({**tensors, name: other.contiguous()}, path, metadata=metadata)
            try:
                trace = Trace.load(path)
            except UserError as error:
                assert str(error).startswith(str(path)) and "\n" not in str(error)
            else:
                use(trace)
