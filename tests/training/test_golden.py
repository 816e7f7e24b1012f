"""Twenty steps of a sprint on drawn dogs: the same losses bit for bit when run again, and those on file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from detrscope.config import merge_configs
from detrscope.training.config import RunConfig, nest_run_config, resolve_training_config
from detrscope.training.launch import make_fabric
from detrscope.training.schedule import constant
from detrscope.training.setup import make_training_loader, make_training_model, open_training_data
from detrscope.training.train_step import TrainStep

GOLDEN = Path(__file__).parent / "golden_sprint.json"
STEPS = 20
SETTINGS = nest_run_config(
    {
        "data.source": "drawn-dogs:count=80,val=1,test=1,size=64",
        "data.batch_size": 4,
        "data.short_side": 64,
        "data.long_side": 64,
        "train.precision": "fp32",
        "model.overrides": {"width": 32, "backbone": {"stem": 8, "widths": [8, 16, 32]}},
    }
)


def losses() -> list[float]:
    """The loss of each of the first steps, from the first draw of weights on."""
    config: RunConfig = resolve_training_config(
        "drawn-dogs", None, merge_configs(SETTINGS, {"train": {"accelerator": "cpu"}})
    )
    fabric = make_fabric(config.train)
    fabric.launch()
    dataset, _ = open_training_data(config)
    torch.manual_seed(config.train.seed)
    loaded, config = make_training_model(config, dataset, fresh=True)
    loader = make_training_loader(config, dataset, loaded.card, fabric)
    loader.set_epoch(0)
    train_step = TrainStep(loaded.model, config.train, fabric)
    train_step.wrapped.train()
    return [train_step.step([one], n, constant)["loss"] for n, one in zip(range(STEPS), loader, strict=False)]


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], list[float]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETRSCOPE_CACHE", str(tmp_path_factory.mktemp("dogs")))
        return losses(), losses()


def test_same_seed_gives_bit_equal_losses(twice: tuple[list[float], list[float]]) -> None:
    first, second = twice
    assert len(first) == STEPS and first == second
    assert min(first[-5:]) < first[0], "nothing was learned"


def test_losses_are_those_on_file(twice: tuple[list[float], list[float]]) -> None:
    """Another processor rounds otherwise, and twenty steps multiply that; a changed recipe differs by far more."""
    golden = json.loads(GOLDEN.read_text())
    assert twice[0][:5] == pytest.approx(golden[:5], rel=2e-3)
    assert twice[0] == pytest.approx(golden, rel=5e-2)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(losses()) + "\n")
