from __future__ import annotations

import csv
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from detrscope.blocks.synced_norm import NormGroup
from detrscope.checkpoints.native import read_checkpoint_card
from detrscope.core.errors import UserError, WorkFailed
from detrscope.core.operating_points import ThresholdCurve, ThresholdTable
from detrscope.core.types import Batch, Outputs, Queries
from detrscope.ops.kernels import speed_choices
from detrscope.training.interrupt import NOTICE, STOP, Preempted
from detrscope.training.loop import Validation
from detrscope.training.run_folder import BEST, LAST, STATE, RunFolder
from detrscope.training.schedule import constant
from detrscope.training.train_config import EmaConfig, ScheduleConfig, TrainConfig
from detrscope.training.train_step import StepFailed, TrainStep
from tests.support.tiny_training import TinyDetector, TinyLoader, cpu, made_up_micro_batch, run

CONFIG = TrainConfig(
    epochs=3,
    lr=1e-3,
    lr_backbone=1e-3,
    schedule=ScheduleConfig(kind="cosine"),
    ema=EmaConfig(enabled=True, warmup_steps=5),
)
TIMES = ("seconds", "images_per_second", "memory_mb")


class Killed(BaseException):
    """What a power cut would be."""


def rows(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in RunFolder(folder).rows()]


TABLE = ThresholdTable("made up", 3, ThresholdCurve(4, (0.7, 0.2), (1, 3), (0, 1)), {})


def fake_ap(model: nn.Module) -> Validation:
    """A score that depends on every weight."""
    total = sum(float(p.detach().double().abs().sum()) for p in model.parameters())
    return Validation({"AP": total % 1, "AP_small": None}, TABLE)


def assert_same_run(one: Path, other: Path) -> None:
    assert rows(one) == rows(other)
    for name in (LAST, BEST):
        a, b = load_file(one / name), load_file(other / name)
        assert a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a), name


def test_one_batch_is_overfitted() -> None:
    torch.manual_seed(0)
    config = replace(CONFIG, lr=3e-3, lr_backbone=3e-3, clip=1.0)
    train_step = TrainStep(TinyDetector(dropout=0.0), config, cpu())
    batch = made_up_micro_batch([1, 2, 3, 5])
    values = [train_step.step([batch], number, constant) for number in range(250)]
    assert values[0]["loss"] > 5 and values[-1]["loss"] < 0.5
    assert (
        values[-1]["matched_iou"] > 0.85 and values[-1]["class_error"] == values[-1]["cardinality_error"] == 0
    )


@pytest.mark.parametrize("killed_at", [1, 3, 4, 8], ids="pass {}".format)
def test_killed_run_resumes_bit_equal(tmp_path: Path, killed_at: int) -> None:
    config = replace(CONFIG, checkpoint_every=2)
    run(tmp_path / "whole", config, evaluate=fake_ap)

    def kill(number: int) -> None:
        if number == killed_at:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "cut", config, TinyLoader(before=kill), evaluate=fake_ap)
    run(tmp_path / "cut", config, evaluate=fake_ap)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_resumed_run_keeps_its_choices_by_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding depends on them, and a busy machine could measure otherwise."""

    def kill(number: int) -> None:
        if number == 4:
            raise Killed

    monkeypatch.setattr(speed_choices, "_ANSWERS", {"made up": True})
    config = replace(CONFIG, checkpoint_every=2)
    with pytest.raises(Killed):
        run(tmp_path, config, TinyLoader(before=kill))
    monkeypatch.setattr(speed_choices, "_ANSWERS", {"made up": False})
    run(tmp_path, config)
    assert speed_choices.speed_choices()["made up"] is True


def test_run_killed_in_evaluation_repeats_only_that(tmp_path: Path) -> None:
    run(tmp_path / "whole", CONFIG, evaluate=fake_ap)
    calls: list[int] = []

    def dies_once(model: nn.Module) -> Validation:
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return fake_ap(model)

    with pytest.raises(Killed):
        run(tmp_path / "cut", CONFIG, evaluate=dies_once)

    def no_more(number: int) -> None:
        raise AssertionError("trained again")

    run(tmp_path / "cut", CONFIG, TinyLoader(before=no_more), evaluate=dies_once)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("number", [*STOP, *NOTICE])
def test_interrupt_writes_a_checkpoint_after_the_step(tmp_path: Path, number: signal.Signals) -> None:
    run(tmp_path / "whole", CONFIG, evaluate=fake_ap)

    def interrupt(n: int) -> None:
        if n == 4:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt) as stopped:
        run(tmp_path / "cut", CONFIG, TinyLoader(before=interrupt), evaluate=fake_ap)
    assert (stopped.type is Preempted) == (number in NOTICE)
    state = RunFolder(tmp_path / "cut").load_state()
    assert state is not None and (state["progress"]["step"], state["progress"]["micro_batches"]) == (5, 2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run(tmp_path / "cut", CONFIG, evaluate=fake_ap)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("number", [*STOP, *NOTICE])
def test_signal_in_an_evaluation_stops_at_once(tmp_path: Path, number: signal.Signals) -> None:
    """All that was trained is saved by then; only the evaluation is repeated."""
    run(tmp_path / "whole", CONFIG, evaluate=fake_ap)
    calls: list[int] = []

    def interrupted(model: nn.Module) -> Validation:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
            raise AssertionError("went on")
        return fake_ap(model)

    with pytest.raises(KeyboardInterrupt) as stopped:
        run(tmp_path / "cut", CONFIG, evaluate=interrupted)
    assert (stopped.type is Preempted) == (number in NOTICE)
    run(tmp_path / "cut", CONFIG, evaluate=fake_ap)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_stop_after_a_notice_waits_for_the_step(tmp_path: Path) -> None:
    """A cluster sends SIGTERM some time after its notice: the step still ends, and its state is saved."""

    def interrupt(n: int) -> None:
        if n == 4:
            os.kill(os.getpid(), NOTICE[0])
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, CONFIG, TinyLoader(before=interrupt))
    state = RunFolder(tmp_path).load_state()
    assert state is not None and state["progress"]["step"] == 5


def test_finished_run_is_not_changed(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, CONFIG)
    before = (tmp_path / LAST).stat().st_mtime_ns

    def no_more(number: int) -> None:
        raise AssertionError("trained again")

    again, _ = run(tmp_path, CONFIG, TinyLoader(before=no_more))
    assert again == outcome and (outcome.epochs, outcome.steps) == (3, 9)
    assert (tmp_path / LAST).stat().st_mtime_ns == before


def test_a_finished_run_can_be_given_more_epochs(tmp_path: Path) -> None:
    constant = replace(CONFIG, schedule=ScheduleConfig(kind="constant"))
    run(tmp_path / "long", replace(constant, epochs=4))
    run(tmp_path / "short", constant)
    run(tmp_path / "short", replace(constant, epochs=4))
    assert rows(tmp_path / "short") == rows(tmp_path / "long")


def test_interrupted_write_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, replace(CONFIG, epochs=1))
    before = (tmp_path / STATE).read_bytes()

    def half(state: object, path: Path) -> None:
        path.write_bytes(before[:100])
        raise Killed

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(Killed):
        run(tmp_path, replace(CONFIG, epochs=2))
    assert (tmp_path / STATE).read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / STATE).write_bytes(b"half a file")
    with pytest.raises(UserError, match=rf"{STATE}: is not a training state that can be read"):
        RunFolder(tmp_path).load_state()


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    run(tmp_path, replace(CONFIG, epochs=1))
    with pytest.raises(UserError, match="does not fit this run"):
        run(tmp_path, CONFIG, model=TinyDetector(queries=5))


class Poisoned(TinyDetector):
    """Puts out NaN for one image, in the middle of the path."""

    def __init__(self, steps: int, part: str = "cost") -> None:
        super().__init__(dropout=0.0)
        self.steps, self.part, self.seen = steps, part, 0

    def forward(self, batch: Batch, extra: Queries | None = None) -> Outputs:
        self.seen += 1
        if self.seen > self.steps:
            if self.part == "cost":
                batch.images[1] *= float("nan")
            if self.part == "weights":
                self.heads[0].bias.data.fill_(float("nan"))
        outputs = super().forward(batch)
        if self.seen > self.steps and self.part == "gradient":
            zero = (outputs.logits[0, 0, 0, 0] * 0).abs().sqrt()  # finite, but its derivative at 0 is not
            return Outputs(outputs.logits + zero, outputs.boxes_cxcywh)
        return outputs


def test_nan_error_names_layer_module_and_images(tmp_path: Path) -> None:
    with pytest.raises(WorkFailed) as caught:
        run(tmp_path, CONFIG, model=Poisoned(steps=5, part="weights"), image_name=lambda i: f"image-{i}.jpg")
    text = str(caught.value)
    assert "matching cost of decoder layer 0, 1 is not finite in epoch 2, step 6" in text
    assert "module heads.0" in text and ".jpg" in text and str(tmp_path) in text
    state = RunFolder(tmp_path).load_state()
    assert state is not None and state["progress"]["step"] == 3
    assert all(torch.isfinite(t).all() for t in state["model"].values())


def test_nan_of_one_image_names_that_image_only() -> None:
    model = Poisoned(steps=0)
    model.backbone[1] = nn.GroupNorm(2, 8)  # batch statistics would hand the NaN on to the other images
    train_step = TrainStep(model, CONFIG, cpu())
    with pytest.raises(StepFailed) as caught:
        train_step.step([made_up_micro_batch([1, 7, 3])], 0, constant)
    assert caught.value.image_ids == (7,)


def test_no_second_forward_where_it_needs_every_process() -> None:
    """The others are in their backward pass: they would wait for one another until the timeout."""
    forwards = []
    for norms in (None, NormGroup(None)):
        train_step = TrainStep(Poisoned(steps=0), CONFIG, cpu())
        train_step.norms = norms
        count: list[int] = []
        train_step.model.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        with pytest.raises(StepFailed) as caught:
            train_step.step([made_up_micro_batch([1, 7, 3])], 0, constant)
        forwards.append((len(count), caught.value.culprit is None))
    assert forwards == [(2, False), (1, True)]


def test_a_gradient_that_is_not_finite_stops_before_the_weights_move(tmp_path: Path) -> None:
    model = Poisoned(steps=0, part="gradient")
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    with pytest.raises(WorkFailed, match=r"gradient of heads\.\d"):
        run(tmp_path, CONFIG, model=model)
    assert all(before[name].equal(p) for name, p in model.named_parameters())


def test_accumulation_equals_the_larger_batch() -> None:
    ids, weights = [0, 1, 2, 3, 4, 6, 7, 8], []
    for size in (8, 2):
        torch.manual_seed(0)
        model = TinyDetector(dropout=0.0)
        model.backbone[1] = nn.GroupNorm(2, 8)  # batch statistics would differ
        train_step = TrainStep(model, replace(CONFIG, clip=0.0), cpu())
        for number in range(3):
            passes = [made_up_micro_batch(ids[i : i + size]) for i in range(0, 8, size)]
            values = train_step.step(passes, number, constant)
        weights.append((dict(model.named_parameters()), values))
    for name, parameter in weights[0][0].items():
        torch.testing.assert_close(parameter, weights[1][0][name], rtol=1e-4, atol=1e-6, msg=name)
    for name in ("loss", "loss_class_0", "loss_box", "grad_norm"):
        assert weights[1][1][name] == pytest.approx(weights[0][1][name], rel=1e-4), name


def test_gradient_is_clipped_and_its_unclipped_norm_reported() -> None:
    train_step = TrainStep(TinyDetector(), replace(CONFIG, clip=0.01), cpu())
    moved: list[float] = []
    real = train_step.optimizer.step

    def spy() -> None:
        moved.append(
            sum(float(p.grad.square().sum()) for p in train_step.model.parameters() if p.grad is not None)
            ** 0.5
        )
        real()

    train_step.optimizer.step = spy
    values = train_step.step([made_up_micro_batch([1, 2, 3])], 0, constant)
    assert moved[0] == pytest.approx(0.01, rel=1e-3) and values["grad_norm"] > 0.1


def test_metrics_have_the_documented_columns(tmp_path: Path) -> None:
    run(tmp_path, CONFIG, evaluate=fake_ap)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    terms = ["loss", "loss_class", "loss_box", "loss_giou", "loss_class_0", "loss_box_0", "loss_giou_0"]
    watched = ["class_error", "cardinality_error", "matched_iou", "grad_norm"]
    assert list(lines[0]) == [
        "epoch", "step", *(f"train/{name}" for name in terms + watched), "lr/base", "lr/backbone",
        *TIMES, "val/AP", "val/AP_small",
    ]  # fmt: skip
    assert [line["epoch"] for line in lines] == [1, 2, 3] and [line["step"] for line in lines] == [3, 6, 9]
    assert lines[0]["val/AP_small"] is None
    with (tmp_path / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["train/loss"]) for row in table] == [line["train/loss"] for line in lines]
    assert table[0]["val/AP_small"] == ""


def test_best_checkpoint_has_the_highest_ap(tmp_path: Path) -> None:
    scores = iter([0.2, 0.5, None, 0.4])
    kept: list[dict[str, torch.Tensor]] = []

    def evaluate(model: nn.Module) -> Validation:
        kept.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return Validation({"AP": next(scores)})

    outcome, model = run(tmp_path, replace(CONFIG, epochs=4), evaluate=evaluate)
    assert (outcome.best_ap, outcome.best_epoch) == (0.5, 2)
    best = load_file(tmp_path / BEST)
    assert all(best[name].equal(tensor) for name, tensor in kept[1].items())
    assert not load_file(tmp_path / LAST)["heads.0.weight"].equal(model.heads[0].weight)  # it is the average


def test_checkpoints_store_the_thresholds_of_their_evaluation(tmp_path: Path) -> None:
    run(tmp_path, replace(CONFIG, epochs=3, evaluate_every=2, max_steps=6), evaluate=fake_ap)
    for name in (BEST, LAST):
        card = read_checkpoint_card(tmp_path / name)
        assert card is not None and card.thresholds == TABLE
    run(tmp_path / "none", replace(CONFIG, epochs=1))
    card = read_checkpoint_card(tmp_path / "none" / LAST)
    assert card is not None and card.thresholds is None


def test_evaluation_every_n_epochs_and_after_the_last(tmp_path: Path) -> None:
    run(tmp_path, replace(CONFIG, epochs=5, evaluate_every=2), evaluate=lambda model: Validation({"AP": 0.1}))
    assert ["val/AP" in row for row in rows(tmp_path)] == [False, True, False, True, True]


def test_training_ends_early_without_a_better_ap(tmp_path: Path) -> None:
    scores = iter([0.1, 0.3, 0.2, 0.3, 0.9])
    config = replace(CONFIG, epochs=12, evaluate_every=2, patience=2)

    def evaluate(model: nn.Module) -> Validation:
        return Validation({"AP": next(scores)})

    outcome, _ = run(tmp_path, config, evaluate=evaluate)
    assert (outcome.epochs, outcome.best_epoch, outcome.best_ap) == (8, 4, 0.3)
    again, _ = run(tmp_path, config, evaluate=evaluate)  # resumed: it has ended
    assert again.epochs == 8 and next(scores) == 0.9
    scores = iter([0.4, 0.1, 0.1])
    more, _ = run(tmp_path, replace(config, patience=3), evaluate=evaluate)  # a little more of it
    assert (more.epochs, more.best_epoch) == (12, 10)


def test_runs_without_an_ap_do_not_end_early(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=4, patience=1)
    outcome, _ = run(tmp_path, config, evaluate=lambda model: Validation({"AP": None}))
    assert outcome.epochs == 4


def test_max_steps_ends_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, replace(CONFIG, max_steps=4), evaluate=fake_ap)
    assert (outcome.epochs, outcome.steps) == (2, 4)
    assert [row["step"] for row in rows(tmp_path)] == [3, 4]


def test_after_epoch_hooks_get_the_run_folder(tmp_path: Path) -> None:
    seen: list[int] = []
    run(tmp_path, CONFIG, after_epoch=[lambda folder: seen.append(len(RunFolder(folder).rows()))])
    assert seen == [1, 2, 3]


def test_a_batch_without_boxes_trains(tmp_path: Path) -> None:
    run(tmp_path, replace(CONFIG, epochs=1), TinyLoader(boxes=0))
    row = rows(tmp_path)[0]
    assert row["train/loss_box"] == 0 and row["train/loss_class"] > 0 and row["train/matched_iou"] is None


def test_bf16_and_channels_last_train(tmp_path: Path) -> None:
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    train_step = TrainStep(TinyDetector(), replace(CONFIG, precision="bf16", channels_last=True), fabric)
    assert train_step.model.backbone[0].weight.is_contiguous(memory_format=torch.channels_last)
    values = train_step.step([made_up_micro_batch([1, 2, 3])], 0, constant)
    assert values["loss"] > 0
