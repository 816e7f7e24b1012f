"""`benchmark`: rows, ratios, memory, stages, what cannot run, files and figure. No assertion on times."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from detrscope.checkpoints.native import save_checkpoint
from detrscope.commands import benchmark_timing as module
from detrscope.commands.benchmark import BenchmarkGrid, benchmark, model_with_queries
from detrscope.commands.benchmark_figure import draw_result
from detrscope.commands.benchmark_rows import STAGES, Benchmark, BenchmarkRow, with_ratios
from detrscope.core.errors import UserError, WorkFailed
from detrscope.core.preprocessing import Preprocessing
from detrscope.core.types import Batch
from detrscope.inference import reference_models
from detrscope.inference.benchmark_sides import BenchmarkSide
from detrscope.inference.latency import Ratio, describe_machine, percentile_95, time_in_turns
from detrscope.inference.load_detector import LoadOptions, load
from detrscope.inference.peak_memory import PeakMemory, measure_peak_memory
from detrscope.inference.reference_models import reference_model
from tests.support.tiny_models import tiny

SIZE = (64, 96)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    model = tiny("detr-r18")
    save_checkpoint(path, model.model, replace(model.card, preprocessing=Preprocessing(64, 96)))
    return str(path)


def run(model: str, *, rounds: int = 2, **options: Any) -> Benchmark:
    """Without memory, on the CPU, on small images."""
    grid = BenchmarkGrid(**{"sizes": [SIZE], "engines": ["torch"], "precisions": ["fp32"], **options})
    return benchmark(model, grid, rounds=rounds, memory=False, load_options=LoadOptions(device="cpu"))


def test_the_grid_gives_a_row_for_every_combination(checkpoint: str) -> None:
    result = run(checkpoint, sizes=[(64, 64), SIZE], batches=[1, 2])
    inputs = [(row.height, row.width, row.batch) for row in result.rows]
    assert inputs == [(64, 64, 1), (64, 64, 2), (64, 96, 1), (64, 96, 2)]
    for row in result.rows:
        assert (row.engine, row.precision, row.problem, len(row.seconds)) == ("torch", "fp32", "", 2)
        assert row.ratio == Ratio(1, 1, 1) and min(row.seconds) > 0
    assert (
        result.machine == describe_machine() and "AVX" in result.machine
    ) or "torch's kernels" in result.machine


def test_auto_is_shown_as_what_it_stands_for(checkpoint: str) -> None:
    (row,) = run(checkpoint, engines=["auto"], precisions=["auto"]).rows
    assert row.name == "torch fp32"


def test_what_cannot_run_is_a_row_with_the_reason(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "detrscope.inference.benchmark_sides.is_native_precision", lambda dtype: dtype == torch.float32
    )
    result = run(checkpoint, engines=["torch", "abacus"], precisions=["fp32", "bf16"])
    problems = {row.name: row.problem for row in result.rows}
    assert problems["torch fp32"] == ""
    assert "bf16 is emulated on this CPU" in problems["torch bf16"]
    assert "'abacus' is not known" in problems["abacus fp32"]
    assert [bool(row.seconds) for row in result.rows] == [True, False, False, False]
    assert all(row.to_json()["median_s"] is None for row in result.rows[1:])
    with pytest.raises(WorkFailed, match="no configuration can run: load: engine 'abacus' is not known"):
        run(checkpoint, engines=["abacus"])


def test_a_size_that_fails_leaves_the_others(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.made_up_images

    def images(height: int, width: int, batch: int) -> torch.Tensor:
        if width == 999:
            raise RuntimeError("not this size\nat all")
        return real(height, width, batch)

    monkeypatch.setattr(module, "made_up_images", images)
    rows = run(checkpoint, sizes=[(64, 999), SIZE]).rows
    assert [row.problem for row in rows] == ["not this size", ""] and rows[1].seconds


def test_queries_have_random_weights_of_that_number(checkpoint: str) -> None:
    result = run(checkpoint, queries=[3, 7])
    assert [row.queries for row in result.rows] == [3, 7]
    assert [row.ratio for row in result.rows] == [Ratio(1, 1, 1)] * 2
    card = load(checkpoint, device="cpu").card
    opened = []
    for queries in (3, 7):
        folder = Path(checkpoint).parent
        name, own = model_with_queries(card, queries, folder)
        side = BenchmarkSide("torch", "fp32", queries, name, None, "cpu")
        opened.append(side.open(own).predict(torch.zeros(1, 3, *SIZE)).logits.shape[2])
    assert opened == [3, 7]


@pytest.mark.parametrize("variant", ["detr-r18", "deformable-detr-r50", "rtdetr-r18", "rtdetrv2-r18"])
def test_transformers_has_our_architecture(variant: str) -> None:
    card = tiny(variant).card
    images = torch.zeros(2, 3, *SIZE)
    for attention in reference_models.ATTENTIONS:
        found = reference_model(f"transformers-{attention}", card, torch.device("cpu"))(images)
        ours = tiny(variant).model
        with torch.no_grad():
            expected = ours(Batch(images))
        assert found.logits.shape[2] == expected.logits.shape[2]
        assert found.boxes_cxcywh.shape[1:] == expected.boxes_cxcywh.shape[1:]


def test_references_come_first_and_give_the_ratio(checkpoint: str) -> None:
    result = run(checkpoint, rounds=1, against=["fasterrcnn", "transformers"])
    names = [row.name for row in result.rows]
    assert names == ["transformers-eager fp32", "transformers-sdpa fp32", "fasterrcnn fp32", "torch fp32"]
    assert [row.problem for row in result.rows] == [""] * 4
    first, last = result.rows[0].seconds, result.rows[-1].seconds
    assert result.rows[-1].ratio == Ratio.of(last, first)


def test_families_that_transformers_lacks_are_named() -> None:
    rows = run("sprint-dense-n", rounds=1, against=["transformers"]).rows
    assert rows[0].problem == "transformers has no model of the family 'sprint'" and rows[-1].seconds


def test_missing_transformers_is_one_line(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_models, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"transformers and timm not installed; pip install 'detrscope\[test\]'"
    ):
        run(checkpoint, against=["transformers"])


def test_files_are_timed_in_stages(checkpoint: str, tmp_path: Path) -> None:
    for number in range(2):
        Image.new("RGB", (80 + number, 60), (200, 10, 10)).save(tmp_path / f"{number}.png")
    grid = BenchmarkGrid(["torch"], ["fp32"], against=["fasterrcnn"])
    result = benchmark(
        checkpoint,
        grid,
        rounds=2,
        images=tmp_path,
        memory=False,
        load_options=LoadOptions(device="cpu"),
    )
    assert result.images == 2 and len(result.rows) == 2
    for row in result.rows:
        assert {name: len(times) for name, times in row.stages.items()} == dict.fromkeys(STAGES, 4)
        assert row.seconds == tuple(sum(row.stages[stage][i] for stage in STAGES) for i in range(4))


def test_memory_is_that_of_a_process_of_its_own(checkpoint: str) -> None:
    card = load(checkpoint, device="cpu").card
    side = BenchmarkSide("torch", "fp32", None, checkpoint, None, "cpu")
    small = measure_peak_memory(side, card, *SIZE, 1)
    large = measure_peak_memory(side, card, 320, 320, 8)
    assert large.peak - small.peak > 8 * 3 * 320 * 320 * 4 / 2**20  # at least the images themselves
    assert 0 < small.start < small.peak
    broken = BenchmarkSide("torch", "fp32", None, "nowhere.safetensors", None, "cpu")
    with pytest.raises(WorkFailed, match=r"memory: model 'nowhere\.safetensors': no such file"):
        measure_peak_memory(broken, card, *SIZE, 1)


def made_up() -> Benchmark:
    memory = PeakMemory(300.0, 200.0)
    rows = [
        BenchmarkRow("transformers-eager", "fp32", 64, 64, 1, None, (0.2, 0.4), memory=memory),
        BenchmarkRow("torch", "fp32", 64, 64, 1, None, (0.1, 0.1), memory=memory),
        BenchmarkRow("torch", "fp32", 128, 128, 1, None, (0.5, 0.5), problem="memory: unknown"),
        BenchmarkRow("onnx", "int8", 64, 64, 1, None, problem="not installed"),
    ]
    return Benchmark("tiny", "a machine", 2, tuple(with_ratios(rows)))


def test_ratios_are_within_rounds_of_the_same_input() -> None:
    ratios = [row.ratio for row in made_up().rows]
    assert ratios == [Ratio(1, 1, 1), Ratio(0.375, 0.25, 0.5), Ratio(1, 1, 1), None]
    assert str(ratios[1]) == "0.375 (0.250-0.500)"


def test_figure_has_lines_over_what_varies_and_bars_otherwise(tmp_path: Path) -> None:
    axes = draw_result(made_up(), tmp_path / "b.svg").figure().axes
    assert [ax.get_xlabel() for ax in axes] == ["image size, megapixels"] * 2
    lines = {line.get_label(): line for line in axes[0].lines}
    assert [round(float(y)) for y in lines["torch fp32"].get_ydata()] == [100, 500]
    assert len(lines["transformers-eager fp32"].get_xdata()) == 1 and (tmp_path / "b.svg").is_file()
    bars = Benchmark("tiny", "a machine", 2, made_up().rows[:2])
    axes = draw_result(bars).figure().axes
    assert [ax.get_title(loc="left") for ax in axes] == ["ms an image, median", "peak memory, MiB"]
    assert [tick.get_text() for tick in axes[0].get_yticklabels()] == [
        "transformers-eager fp32",
        "torch fp32",
    ]


def test_out_has_json_csv_and_figure(checkpoint: str, tmp_path: Path) -> None:
    grid = BenchmarkGrid(["torch", "abacus"], ["fp32"], [SIZE])
    result = benchmark(
        checkpoint,
        grid,
        rounds=1,
        threads=1,
        memory=False,
        out=tmp_path,
        load_options=LoadOptions(device="cpu"),
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["benchmark.csv", "benchmark.json", "benchmark.png"]
    tree = json.loads((tmp_path / "benchmark.json").read_text())
    assert tree == json.loads(json.dumps(result.to_json())) and tree["machine"]
    assert tree["rows"][0]["median_s"] == result.rows[0].seconds[0]
    with (tmp_path / "benchmark.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["images_per_second"]) > 0
    assert rows[1]["median_s"] == "" and "abacus" in rows[1]["problem"]


@pytest.mark.parametrize(
    ("grid", "options", "message"),
    [
        ({"batches": [0]}, {}, "batches: expected 1 or more, found 0"),
        ({"queries": [-1]}, {}, "queries: expected 1 or more, found -1"),
        ({"sizes": [(20, 64)]}, {}, "sizes: expected 32 pixels or more, found 20x64"),
        ({"engines": []}, {}, "engines: expected at least one"),
        ({"against": ["yolo"]}, {}, "against 'yolo': expected transformers or fasterrcnn"),
        ({}, {"rounds": 0}, "rounds 0: expected 1 or more"),
        ({}, {"threads": 0}, "threads 0: expected 1 or more"),
        ({}, {"load_options": LoadOptions(precision="fp32")}, "give engine and precision in the grid"),
        ({"sizes": [SIZE]}, {"images": "a.png"}, "images: are predicted one by one"),
        ({}, {"images": "nowhere.png"}, "nowhere.png"),
        ({"queries": [10**7]}, {}, "queries"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(
    grid: dict[str, Any], options: dict[str, Any], message: str, checkpoint: str
) -> None:
    with pytest.raises(UserError, match=message):
        benchmark(checkpoint, BenchmarkGrid(**grid), **options)


def test_sides_take_turns() -> None:
    order: list[str] = []
    ticks = iter(range(100))
    seconds = time_in_turns(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")},
        rounds=3,
        warm_up=2,
        clock=lambda: float(next(ticks)),
        after_round=lambda: order.append("|"),
    )
    assert "".join(order) == "ababab|ab|ab|" and seconds == {"a": [1.0] * 3, "b": [1.0] * 3}
    assert percentile_95([1.0] * 19 + [3.0]) == pytest.approx(1.1)
