"""The shipped model knows drawn dogs only: photographs are warned about, drawings are not."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import detrscope as ds
from detrscope.checkpoints.load import load_model
from detrscope.checkpoints.native import save_checkpoint
from detrscope.commands.detect import detect
from detrscope.commands.domain_warning import SHIPPED, DomainWarning, suggest_photograph_models
from detrscope.config import build
from detrscope.data.drawn_dogs import is_drawn_dogs, write_drawn
from detrscope.data.open_dataset import open_dataset
from detrscope.families import VARIANTS
from detrscope.inference.load_detector import LoadOptions
from detrscope.trace_interface import Trace
from detrscope.training.config import RunConfig
from detrscope.training.setup import make_training_model
from tests.support.traces import detector_of


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "dogs"
    write_drawn(folder, count=4, size=96)
    return folder / "images"


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "giraffe.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (72, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((192, 144)).save(path)
    return path


def test_drawings_are_recognised_by_metadata(drawn: Path, tmp_path: Path) -> None:
    path = next(drawn.iterdir())
    assert is_drawn_dogs(path)
    copied = tmp_path / "copied.png"
    copied.write_bytes(path.read_bytes())
    with Image.open(copied) as image:
        assert is_drawn_dogs(copied) and is_drawn_dogs(image)
        image.save(tmp_path / "again.png")
    assert not is_drawn_dogs(tmp_path / "again.png"), "saved by another program"


def test_drawings_are_recognised_by_annotations(drawn: Path, tmp_path: Path) -> None:
    folder = tmp_path / "old" / "images"
    folder.mkdir(parents=True)
    with Image.open(next(drawn.iterdir())) as image:
        image.copy().save(folder / "0.png")
    assert is_drawn_dogs(folder / "0.png") is False
    (folder.parent / "annotations.json").write_text((drawn.parent / "annotations.json").read_text())
    assert is_drawn_dogs(folder / "0.png")


def test_photographs_are_not_drawings(shared_data: Path) -> None:
    photographs = [p for p in shared_data.rglob("*.jp*g") if p.is_file()]
    assert len(photographs) > 100 and not any(map(is_drawn_dogs, photographs))


def test_warning_is_in_log_json_and_image(
    photograph: Path, drawn: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="detrscope"):
        found = detect(
            SHIPPED,
            [photograph, next(drawn.iterdir())],
            out=tmp_path / "out",
            load_options=LoadOptions(device="cpu"),
        )
    (said,) = [record.getMessage() for record in caplog.records]
    assert (
        "giraffe.jpg" in said
        and "drawn dogs" in said
        and f"for example model {suggest_photograph_models()[0]}" in said
    )
    first, second = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert "is trained on drawn dogs only" in first["note"] and "note" not in second
    assert found[0].note == first["note"] and not found[1].note
    with Image.open(tmp_path / "out" / "giraffe.png") as picture:
        assert picture.height > picture.width * 144 / 192, "no line above the picture"


def test_warning_is_in_figures_and_traces(
    photograph: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="detrscope"):
        (seen,) = ds.see(
            photograph,
            views="encoder",
            out=tmp_path,
            trace_format="full",
            load_options=LoadOptions(device="cpu"),
        )
    assert "drawn dogs" in caplog.text
    trace = Trace.load(seen.files["giraffe.trace"])
    assert "is trained on drawn dogs only" in ds.draw(trace, "encoder").caption


@pytest.mark.parametrize("weights", [None, "random"])
def test_drawings_and_other_models_give_no_warning(
    drawn: Path, photograph: Path, caplog: pytest.LogCaptureFixture, weights: str | None
) -> None:
    with caplog.at_level(logging.WARNING, logger="detrscope"):
        detect(SHIPPED, drawn if weights is None else photograph, load_options=LoadOptions(weights, "cpu"))
    assert not caplog.records


def test_the_card_of_the_weights_decides(tmp_path: Path) -> None:
    shipped = ds.load(SHIPPED, device="cpu")
    copied = tmp_path / "copied.safetensors"
    save_checkpoint(copied, load_model(SHIPPED).model, shipped.card)
    for model in (shipped, ds.load(copied, device="cpu")):  # an export writes this card too
        domain = DomainWarning(model)
        assert SHIPPED in domain.note("photo.jpg", "photo.jpg") and domain.foreign == ["photo.jpg"]
    for detector in (None, detector_of(SHIPPED)):
        domain = DomainWarning(detector)
        assert not domain.note("photo.jpg", "photo.jpg") and not domain.foreign


def test_a_fine_tuned_model_is_not_the_shipped_one(drawn: Path) -> None:
    dataset = open_dataset(str(drawn.parent), "train")
    config = build(RunConfig, {"model": {"start_from": SHIPPED}}, source="settings")
    loaded, _ = make_training_model(config, dataset, fresh=True)
    assert loaded.card.source == f"fine-tuned from {loaded.report.source}"


def test_recommended_models_have_published_weights() -> None:
    assert len(suggest_photograph_models()) == len(set(suggest_photograph_models())) == 3
    assert all(VARIANTS[name].published for name in suggest_photograph_models())
