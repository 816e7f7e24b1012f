"""Wrong types into every public function and method: one error that names the argument, before any work."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import detrscope as ds
from detrscope.core.argument_check import WrongArgument, check_arguments_of
from detrscope.core.classes import ClassTable
from detrscope.core.edits import Bias, Gain, KeyBias, Swap
from detrscope.core.errors import UserError, WorkFailed
from detrscope.core.types import Target
from tests.support.traces import detector_of, picture

ODD: tuple[object, ...] = (
    *(5, -1.5, float("nan"), True, None, "odd", b"odd", [], [1.5], ["a"], {"a": 1}, {1}, object(), int, len),
    *((1, 2, 3), torch.zeros(2, 2), np.zeros(3), np.array(["x"]), 10**400, float("inf")),
)


@cache
def detector() -> ds.Detector:
    return detector_of("detr-r18")


@cache
def trace() -> ds.Trace:
    return detector().trace(picture(), explain=[0])


def public_callables() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Everything a Python caller meets, with arguments that are right."""
    map_, among = trace().cross_attention(0), trace().self_attention(query=0)
    image = picture()
    found: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "load": (ds.load, {"name_or_path": "sprint-dense-n"}),
        "draw": (ds.draw, {"trace": trace()}),
        "draw_attention": (ds.draw_attention, {"attention": map_}),
        "see": (ds.see, {"sources": trace()}),
        "evaluate": (ds.evaluate, {"model": detector(), "data": "coco:nowhere"}),
        "train": (ds.train, {"preset": "drawn-dogs", "data": "coco:nowhere", "out": "nowhere/run"}),
        "timelapse": (ds.timelapse, {"run": "nowhere"}),
        "push_to_hub": (
            ds.push_to_hub,
            {"model": "nowhere.safetensors", "repository": "a/b", "license": "mit", "out": "nowhere/hub"},
        ),
        "detect": (ds.detect, {"model": detector(), "sources": image}),
        "trace": (ds.trace, {"source": image, "model": detector()}),
        "why": (ds.why, {"model": detector(), "data": "coco:nowhere"}),
        "faithfulness": (ds.faithfulness, {"model": detector(), "data": "coco:nowhere"}),
        "ViewOptions": (ds.ViewOptions, {}),
        "Gain": (Gain, {"site": "decoder.0.cross"}),
        "KeyBias": (KeyBias, {"site": "decoder.0.cross", "keys": (0,)}),
        "hide_region": (ds.hide_region, {"region_xyxy": (0, 0, 9, 9)}),
        "swaps_from": (ds.swaps_from, {"trace": trace(), "site": "decoder.0.cross"}),
        "Bias": (Bias, {"site": "decoder.0.cross", "scores": torch.zeros(1)}),
        "Swap": (Swap, {"site": "decoder.0.cross", "part": "value", "tensor": torch.zeros(1)}),
        "Target": (Target, {"labels": torch.zeros(0, dtype=torch.int64), "boxes_cxcywh": torch.zeros(0, 4)}),
        "Trace.load": (ds.Trace.load, {"path": "nowhere.trace"}),
    }
    right = {"source": image, "images": torch.zeros(1, 3, 32, 32), "query": 0, "site": "decoder.0.cross"}
    right |= {"image": image, "prepared": torch.zeros(3, 32, 32), "edits": []}
    right |= {"kind": "decoder.cross", "point": (1, 1), "path": "nowhere/no/such.xyz"}
    for name, thing in (("Detector", detector()), ("Trace", trace()), ("Map", map_), ("Among", among)):
        for method in dir(type(thing)):
            member = inspect.getattr_static(type(thing), method)
            skipped = (
                method.startswith("_")
                or not inspect.isfunction(member)
                or method in SHOWN
                or method in INSIDE
            )
            if not skipped:
                bound = getattr(thing, method)
                needed = {
                    key: right[key]
                    for key, one in inspect.signature(bound).parameters.items()
                    if one.default is one.empty
                }
                found[f"{name}.{method}"] = (bound, needed)
    return found


SHOWN = ("show",)  # opens a window
INSIDE = ("map_of_rows", "map_of_row", "check_index")  # for views: they take what other functions made
NAMES = (
    *(
        "load",
        "detect",
        "trace",
        "faithfulness",
        "why",
        "draw",
        "draw_attention",
        "see",
        "evaluate",
        "train",
        "timelapse",
        "push_to_hub",
        "ViewOptions",
        "Gain",
        "KeyBias",
        "Bias",
        "Swap",
    ),
    *(
        "Target",
        "Trace.load",
        "Detector.predict",
        "Detector.detect",
        "Detector.trace",
        "Detector.edited",
        "Detector.edit_probe",
        "hide_region",
        "swaps_from",
        "Trace.boxes_xyxy",
    ),
    *("Trace.check_query", "Trace.cross_attention", "Trace.describe", "Trace.detections", "Trace.draw"),
    *(
        "Trace.layers",
        "Trace.predictions",
        "Trace.query_name",
        "Trace.record",
        "Trace.save",
        "Trace.scores",
        "Trace.self_attention",
    ),
    *(
        "Trace.site",
        "Trace.incoming_attention",
        "Trace.rollout",
        "Trace.relevance",
        "Trace.sites_of",
        "Trace.token_at",
        "Trace.tokens_at",
        "Trace.levels_at",
        "Map.on_image",
        "Map.peak",
        "Map.draw",
        "Map.save",
    ),
    *("Among.on_image", "Among.peak", "Among.draw", "Among.save"),
)


def test_table_lists_every_public_callable() -> None:
    assert set(public_callables()) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_types_raise_an_error_that_names_the_argument(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    function, right = public_callables()[name]
    signature = inspect.signature(function)
    refused = 0
    for key, one in signature.parameters.items():
        if key == "device":
            continue  # torch says what a device is
        for value in ODD:
            if value is one.default:
                continue
            try:
                function(**{**right, key: value})
            except (UserError, WorkFailed) as error:
                refused += 1
                assert "\n" not in str(error) and str(error), (key, value)
                if isinstance(error, WrongArgument):
                    assert f"{key}" in str(error)
    if signature.parameters:
        assert refused >= 8 * (len(signature.parameters) - ("device" in signature.parameters))
    with pytest.raises(WrongArgument, match="unexpected keyword argument 'oddity'"):
        function(**right, oddity=1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ds.load("detr-r18", classes="dog"), r"classes: expected .* found 'dog'; pass a list: \['dog'\]"),
        (lambda: ds.load("detr-r18", weights="random", classes=["a", "a"]), "'a' is given more than once"),
        (lambda: ds.load("detr-r18", weights="random", classes=[]), "at least one class"),
        (lambda: ds.load("detr-r18", precision=16), "load: precision: expected 'auto' or 'fp32'"),
        (lambda: ds.load(), "load: missing a required argument: 'name_or_path'"),
        (lambda: detector().predict(torch.zeros(3, 32, 32)), r"images: expected floating-point \[B, 3, H, W\]"),
        (lambda: detector().predict(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)), "images: expected floating"),
        (
            lambda: detector().predict(torch.zeros(2, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.bool)),
            r"padding: expected bool \[2, 32, 32\], found \[1, 32, 32\]",
        ),
        (lambda: detector().predict(torch.zeros(1, 3, 32, 32), torch.zeros(1, 32, 32)), "padding: expected bool"),
        (lambda: trace().cross_attention(0, merge="x"), "merge 'x' is not known; valid: max, mean"),
        (lambda: ds.ViewOptions(merge="x"), "merge 'x' is not known"),
        (lambda: trace().cross_attention(1.5), "query: expected int, list of int or None, found 1.5"),
        (lambda: Gain("a", factor=float("nan")), "Gain: factor: expected a finite number, found nan"),
        (lambda: Gain("a", keys=(1.5,)), "Gain: keys: expected list of int or None"),
        (lambda: Gain("a", heads=3), r"Gain: heads: .*found 3; pass a list: \[3\]"),
        (lambda: Bias("a", torch.tensor([float("nan")])), "Bias: scores: expected numbers, found NaN"),
        (lambda: Swap("a", "keys", torch.zeros(1)), "Swap: part 'keys' is not known; did you mean 'key'"),
        (lambda: detector().trace(picture(), targets=5), "Detector.trace: targets: expected Target or None, found 5"),
        (
            lambda: detector().trace(picture(), targets=Target(torch.tensor([9]), torch.zeros(1, 4))),
            "targets: labels: expected class indices 0 to 2",
        ),
        (
            lambda: detector().trace(picture(), targets=Target(torch.tensor([0]), torch.zeros(2, 4))),
            r"targets: expected labels \[M\] and boxes_cxcywh \[M, 4\]",
        ),
        (lambda: detector().trace(picture(), edits=Gain("decoder.0.cross")), "edits: expected list of Bias"),
        (lambda: trace().detections(7), "threshold 7: expected a score between 0 and 1"),
        (lambda: trace().token_at((1, 1), level=3), "level 3: there are 1"),
        (lambda: trace().query_name(99), "query 99"),
        (lambda: ds.draw(5), "draw: trace: expected TraceData, found 5"),
        (lambda: ds.train(preset=3), "train: preset: expected text or None, found 3"),
    ],
)  # fmt: skip
def test_wrong_values_raise_a_user_error(call: Callable[[], object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        call()


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda x: Bias("a", x(1)), "scores"),
        (lambda x: Swap("a", "key", x(1)), "tensor"),
        (lambda x: Target(torch.zeros(1, dtype=torch.int64), x(1, 4)), "boxes_cxcywh"),
        (lambda x: detector().predict(x(1, 3, 64, 64)), "images"),
        (lambda x: detector().predict(torch.zeros(1, 3, 64, 64), x(1, 64, 64)), "padding"),
        (lambda x: detector().detect(x(3, 30, 30)), "source"),
        (lambda x: detector().trace(x(3, 30, 30)), "source"),
        (lambda x: ds.detect(detector(), x(3, 30, 30)), "sources"),
    ],
)
def test_tensors_without_numbers_are_refused(
    call: Callable[[Callable[..., object]], object], argument: str
) -> None:
    with pytest.raises(WrongArgument, match=rf"{argument}: expected a dense tensor .* the device 'meta'"):
        call(meta)
    with pytest.raises(
        WrongArgument, match=rf"{argument}: expected a dense tensor .* the layout torch.sparse_coo"
    ):
        call(lambda *shape: torch.zeros(shape).to_sparse())


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.uint8])
def test_edits_take_floating_point_numbers_only(dtype: torch.dtype) -> None:
    for name, make in (("scores", lambda x: Bias("a", x)), ("tensor", lambda x: Swap("a", "key", x))):
        with pytest.raises(UserError, match=rf"{name}: expected floating-point numbers, found {dtype}"):
            make(torch.zeros(1, dtype=dtype))


@pytest.mark.parametrize("device", ["toaster", "cuda:99", "meta", "", "cpu:x", "mps:7"])
def test_devices_that_are_not_there_are_named(device: str) -> None:
    with pytest.raises(UserError, match=rf"device '{device}': .*use auto, cpu, cuda, cuda:N or mps"):
        ds.load("sprint-dense-n", device=device)


def test_numpy_and_torch_numbers_are_accepted() -> None:
    for query in (np.int64(2), torch.tensor(2), [2], (2,), np.array([2]), torch.tensor([2]), range(2, 3)):
        assert torch.equal(trace().cross_attention(query).values, trace().cross_attention(2).values)
    assert Gain("a", factor=np.float32(0.5), heads=[1, 2]) == Gain("a", 0.5, (1, 2))
    assert trace().self_attention(point=[3, 4.5]).selection.point == (3, 4.5)
    assert replace(ds.ViewOptions(queries=[1]), layer=np.int32(1)) == ds.ViewOptions((1,), layer=1)


def test_wrong_argument_is_also_a_type_error() -> None:
    @check_arguments_of
    def double(number: int, note: str = "") -> int:
        return 2 * number

    assert double(np.int8(4)) == 8
    with pytest.raises(TypeError, match="number: expected int, found '4'"):
        double("4")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="multiple values for argument 'number'; it takes number, note"):
        double(1, number=2)  # type: ignore[misc]


@pytest.mark.parametrize(
    "name",
    [
        "a\x00b",
        "a" * 5000,
        "",
        "folder",
        "folder.safetensors",
        "pipe",
        "pipe.safetensors",
        "empty.safetensors",
        "\ud800",
    ],
)
def test_names_that_are_not_files_are_one_line_errors(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("folder", "folder.safetensors"):
        Path(folder).mkdir()
    for pipe in ("pipe", "pipe.safetensors"):
        os.mkfifo(pipe)
    Path("empty.safetensors").touch()
    for call in (ds.load, ds.Trace.load, lambda path: ds.load("detr-r18", weights=path)):
        with pytest.raises(UserError) as error:
            call(name)
        assert "\n" not in str(error.value)


def test_class_lookup_is_fast_with_many_classes() -> None:
    table = ClassTable(tuple(range(5, 30_005)), tuple(f"class {i}" for i in range(30_000)))
    started = time.process_time()
    assert [table.index_of(i) for i in table.ids] == list(range(30_000))
    assert [table.index_of_name(name) for name in table.names] == list(range(30_000))
    assert time.process_time() - started < 2
    with pytest.raises(UserError, match=r"category id 4 is not one of \[5, 6, ") as error:
        table.index_of(4)
    assert len(str(error.value)) < 500


def test_batch_refuses_other_types_than_tensors() -> None:
    for wrong in (5, None, [1], "x"):
        with pytest.raises(UserError, match="Batch: expected images Tensor"):
            ds.Batch(wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="padding Tensor or None, found Tensor, int"):
        ds.Batch(torch.zeros(1, 3, 4, 4), 5)  # type: ignore[arg-type]
