"""Masks from the command line: a head learned on a frozen detector, evaluated, drawn and written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import detrscope as ds
from detrscope.checkpoints.load import load_random_model
from detrscope.checkpoints.native import save_checkpoint
from detrscope.cli.app import app
from detrscope.commands.evaluate import evaluate, evaluate_results
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.tiling import Tiling
from detrscope.data.coco_masks import decode_mask
from detrscope.data.drawn_dogs import write_drawn
from detrscope.inference.image_detections import ImageDetections, to_supervision
from detrscope.training.run_folder import RunFolder
from detrscope.views.detection_image import draw_detections
from tests.support.datasets import MakeDataset
from tests.support.panoptic_folder import write_panoptic
from tests.support.tiny_models import tiny_settings

QUICK: dict[str, Any] = {
    "train.epochs": 1, "data.batch_size": 4, "data.workers": 0, "data.short_side": 128, "data.long_side": 128,
    "augment.sizes": [], "augment.crop": 0.0, "train.precision": "fp32", "train.lr": 1e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def dogs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks") / "dogs"
    write_drawn(folder, count=12, size=128)
    return folder


@pytest.fixture(scope="module")
def run(dogs: Path) -> Path:
    outcome = ds.train(
        preset="masks", data=f"coco:{dogs}", from_="sprint-dense-n", out=dogs.parent / "run", overrides=QUICK
    )
    return outcome.folder


def test_only_the_head_is_learned(run: Path) -> None:
    after = load_file(run / "last.safetensors")
    before = load_file(Path(ds.__file__).parent / "weights" / "sprint-dense-n-drawn-dogs.safetensors")
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert {key.split(".")[0] for key in after.keys() - before.keys()} == {"mask_head"}
    (row,) = RunFolder(run).rows()
    assert row["train/loss_mask"] > 0 and row["train/loss_dice"] > 0
    assert row["val/mask_AP"] is not None and row["val/AP"] > 0.3


def test_evaluation_has_box_and_mask_ap(run: Path, dogs: Path, tmp_path: Path) -> None:
    results, metrics = tmp_path / "results.json", tmp_path / "metrics.json"
    found = evaluate(run, f"coco:{dogs}", results_file=results, json_file=metrics)
    assert found.masks is not None and found.panoptic is None
    tree = json.loads(metrics.read_text())
    assert tree["mask_AP"] == found.masks.AP == tree["masks"]["AP"] and tree["AP"] == found.AP
    rows = json.loads(results.read_text())
    assert all(row["segmentation"]["size"] == [128, 128] for row in rows)
    again = evaluate_results(results, f"coco:{dogs}")
    assert again.masks is not None and again.masks.summary() == found.masks.summary()


def test_the_command_prints_mask_ap(run: Path, dogs: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", "--model", str(run), "--data", f"coco:{dogs}"])
    assert result.exit_code == 0, result.output
    assert "boxes; percent" in result.output and "masks; percent" in result.output


def test_detections_carry_masks(run: Path, dogs: Path) -> None:
    detector = ds.load(run)
    image = sorted((dogs / "images").iterdir())[1]
    found = detector.detect(image, threshold=0.0)
    masks = found.masks
    assert masks is not None and masks.dtype == torch.bool and masks.shape == (len(found), 128, 128)
    best = found.select([2, 0]).masks
    assert best is not None and torch.equal(best, masks[[2, 0]])
    converted = to_supervision(found)
    assert converted.mask is not None and (converted.mask == masks.numpy()).all()
    result = ImageDetections("a.png", found)
    rows = result.to_json()["detections"]
    mask = decode_mask(rows[0]["segmentation"], 128, 128)
    assert mask is not None and (mask == masks[0].numpy()).all()
    assert not any(isinstance(cell, dict) for row in result.to_rows() for cell in row)


def test_dot_product_masks_are_learned_with_the_detector(dogs: Path, tmp_path: Path) -> None:
    """RF-DETR with masks, its own recipe: every layer and the proposals learn masks, from COCO polygons."""
    overrides = tiny_settings("rfdetr-seg-nano")
    overrides["backbone"] |= {
        "layers": 12,
        "window_layers": (),
        "maps": (2, 5, 8, 11),
    }  # the recipe names them
    more = {**QUICK, "model.overrides": overrides, "data.square": 96, "train.max_steps": 2}
    outcome = ds.train(
        preset="rfdetr-seg-nano-coco", data=f"coco:{dogs}", out=tmp_path / "run", overrides=more
    )
    (row,) = RunFolder(outcome.folder).rows()
    for name in ("loss_mask", "loss_dice_0", "loss_mask_proposals"):
        assert row[f"train/{name}"] > 0
    assert row["val/mask_AP"] is not None
    image = sorted((dogs / "images").iterdir())[1]
    masks = ds.load(outcome.folder).detect(image, threshold=0.0).masks
    assert masks is not None and masks.shape[1:] == (128, 128)


def test_any_family_with_a_setting_takes_a_dot_product_head(dogs: Path, tmp_path: Path) -> None:
    more = {**QUICK, "model.mask_head": "dot-product", "train.max_steps": 1}
    outcome = ds.train(
        preset="masks", data=f"coco:{dogs}", from_="sprint-dense-n", out=tmp_path / "run", overrides=more
    )
    (row,) = RunFolder(outcome.folder).rows()
    assert row["train/loss_mask"] > 0 and row["train/loss_mask_0"] > 0 and row["val/AP"] > 0.3


@pytest.mark.parametrize(
    ("variant", "preset"),
    [
        ("deformable-detr-r50-two-stage", "finetune"),
        ("rtdetr-r18", "rtdetr-r18-coco"),
        ("dfine-n", "dfine-n-coco"),
        ("deimv2-atto", "deimv2-atto-coco"),
        ("lwdetr-t", "lwdetr-t-coco"),
    ],
)
def test_recipes_without_masks_take_a_dot_product_head(
    variant: str, preset: str, dogs: Path, tmp_path: Path
) -> None:
    """Masks are one more term of a recipe's losses; a trace has the masks of its detections."""
    overrides = {**tiny_settings(variant), "mask_head": "dot-product"}
    if variant == "lwdetr-t":  # the recipe names its layers
        overrides["backbone"] |= {"layers": 6, "window_layers": (0, 2, 4), "maps": (1, 3, 5)}
    model = {"variant": variant, "backbone_weights": "none", "overrides": overrides}
    more = {**QUICK, "data.square": 96, "train.max_steps": 1, "model": model}
    run = ds.train(preset=preset, data=f"coco:{dogs}", out=tmp_path / "run", overrides=more).folder
    (row,) = RunFolder(run).rows()
    layers = overrides["decoder"]["layers"]
    for layer in ("", *(f"_{n}" for n in range(layers - 1))):
        assert row[f"train/loss_mask{layer}"] > 0 and row[f"train/loss_dice{layer}"] > 0
    detector = ds.load(run)
    image = sorted((dogs / "images").iterdir())[1]
    found = detector.detect(image, threshold=0.0)
    assert found.masks is not None and found.masks.shape == (len(found), 128, 128)
    traced = detector.trace(image).detections(threshold=0.0)
    assert traced.masks is not None and torch.equal(traced.masks, found.masks)


def test_a_model_with_another_mask_head_keeps_it_and_says_so(
    run: Path, dogs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = {**QUICK, "model.mask_head": "dot-product", "train.max_steps": 1}
    ds.train(preset="masks", data=f"coco:{dogs}", from_=run, out=tmp_path / "run", overrides=more)
    assert "keeps its own mask head, convolutional, in place of dot-product" in caplog.text


def test_a_cost_of_masks_needs_masks_at_points(run: Path, dogs: Path, tmp_path: Path) -> None:
    more = {**QUICK, "train.cost.mask": 5.0}
    with pytest.raises(UserError, match=r"train\.cost\.mask, train\.cost\.dice: expected 0"):
        ds.train(preset="masks", data=f"coco:{dogs}", from_=run, out=tmp_path / "run", overrides=more)


def test_tiles_give_boxes_without_masks(run: Path, dogs: Path) -> None:
    image = sorted((dogs / "images").iterdir())[1]
    found = ds.load(run).detect(image, threshold=0.0, tiling=Tiling(sizes=((80, 80),)))
    assert found.masks is None and len(found)


def test_masks_are_drawn_inside_only(run: Path) -> None:
    found = ds.load(run).detect(np.zeros((128, 128, 3), np.uint8), threshold=0.0).select([0])
    masks = torch.zeros(1, 128, 128, dtype=torch.bool)
    masks[0, 40:80, 30:90] = True
    image = torch.full((3, 128, 128), 90, dtype=torch.uint8)
    bare = draw_detections(image, dataclasses.replace(found, masks=None), small=0).pixels()
    drawn = draw_detections(image, dataclasses.replace(found, masks=masks), small=0).pixels()
    changed = (bare != drawn).any(-1)
    assert not changed[~masks[0].numpy()].any() and changed[masks[0].numpy()].mean() > 0.8
    border, inside = drawn[41, 30], drawn[60, 60]
    assert not (border == inside).all()


def test_data_without_masks_are_refused(make_dataset: MakeDataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has a mask"):
        ds.train(
            preset="masks", data=make_dataset(), from_="sprint-dense-n", out=tmp_path / "run", overrides=QUICK
        )
    assert not (tmp_path / "run").exists()


def test_a_frozen_model_of_random_weights_is_refused(dogs: Path, tmp_path: Path) -> None:
    more = {**QUICK, "model.variant": "sprint-dense-n", "model.backbone_weights": "none"}
    with pytest.raises(UserError, match="train_only"):
        ds.train(preset="masks", data=f"coco:{dogs}", out=tmp_path / "run", overrides=more)


def test_a_mask_head_that_a_family_does_not_take_is_refused(dogs: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    loaded = load_random_model("rtdetr-r18", tiny_settings("rtdetr-r18"), ClassTable.of_names(["dog"]))
    save_checkpoint(tmp_path / "rt.safetensors", loaded.model, loaded.card)
    with pytest.raises(UserError, match=r"'rt_detr': mask_head is 'convolutional': expected .*dot-product"):
        ds.train(
            preset="masks", data=f"coco:{dogs}", from_=tmp_path / "rt.safetensors", out=tmp_path / "run",
            overrides=QUICK,
        )  # fmt: skip


def test_panoptic_quality_is_printed_for_panoptic_data(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classes = ClassTable((18, 187), ("dog", "sky"))
    loaded = load_random_model("detr-r50-panoptic", tiny_settings("detr-r50-panoptic"), classes)
    with torch.no_grad():  # sure of "sky" everywhere: one segment, of which a part is void or a dog
        heads: Any = loaded.model.heads
        heads.class_head.bias.copy_(torch.tensor([-9.0, 9.0, -9.0]))
        assert loaded.model.mask_head is not None
        loaded.model.mask_head.output.bias.fill_(9.0)  # type: ignore[union-attr, operator]
    save_checkpoint(tmp_path / "model.safetensors", loaded.model, loaded.card)
    source = write_panoptic(tmp_path / "data")
    quality = evaluate(tmp_path / "model.safetensors", source, split="val").panoptic
    assert quality is not None
    # 1,100 pixels of sky; the 500 of the dog and the crowd count against it, void does not.
    assert quality.things.PQ == 0 and quality.stuff.RQ == 1
    assert pytest.approx(1100 / 1600) == quality.stuff.PQ
    result = CliRunner().invoke(
        app, ["evaluate", "--model", str(tmp_path / "model.safetensors"), "--data", source]
    )
    assert result.exit_code == 0 and "panoptic quality" in result.output
