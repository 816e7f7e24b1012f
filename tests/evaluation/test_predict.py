"""predict_dataset: original pixels and ids from resized, padded, regrouped batches."""

from pathlib import Path

import pytest
import torch

from detrscope.core.errors import UserError
from detrscope.data.open_dataset import open_dataset
from detrscope.evaluation.coco_ap import average_precision
from detrscope.evaluation.predict import ModulePredictor, predict_dataset
from tests.support.square_detector import IDS, WORLD, SeesSquares, card, write_world


@pytest.fixture
def world(tmp_path: Path) -> str:
    return str(write_world(tmp_path / "world"))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_predictions_have_original_pixels_and_ids(world: str, batch_size: int) -> None:
    dataset = open_dataset(world, "val")
    results = predict_dataset(
        ModulePredictor(SeesSquares()), card(), dataset, batch_size=batch_size, progress=False
    )
    assert [r["image_id"] for r in results] == [image.id for image in dataset.images for _ in range(2)]
    best = results[::2]  # of the two queries of each image
    for result, image in zip(best, dataset.images, strict=True):
        ground_truth = dataset.annotations[image.id][0]
        assert result["category_id"] == ground_truth.category_id
        assert result["bbox"] == pytest.approx(ground_truth.bbox_xywh, abs=1.0)
        assert result["score"] > 0.9
    evaluation = average_precision(dataset.coco_json(), results)
    assert pytest.approx(1, rel=1e-12) == evaluation.AP50
    assert [row.AP50 for row in evaluation.per_class] == pytest.approx([1, 1, 1], rel=1e-12)
    assert [row.id for row in evaluation.per_class] == list(IDS)


def test_batches_hold_images_of_similar_size(world: str) -> None:
    model = SeesSquares()
    dataset = open_dataset(world, "val")
    predict_dataset(ModulePredictor(model), card(), dataset, batch_size=2, progress=False)
    assert model.sizes == [2, 2, 1]
    heights = [card().preprocessing.size_for(i.height, i.width) for i in dataset.images]
    assert heights[0] == heights[3]  # the two of 64 x 48 can share a batch without padding


def test_model_mode_is_restored(world: str) -> None:
    dataset = open_dataset(world, "val")
    for training in (True, False):
        model = SeesSquares().train(training)
        predict_dataset(ModulePredictor(model), card(), dataset, progress=False)
        assert model.training is training


def test_a_model_cast_to_bf16_gets_bf16_images(world: str) -> None:
    dataset = open_dataset(world, "val").subset([50])
    results = predict_dataset(ModulePredictor(SeesSquares().bfloat16()), card(), dataset, progress=False)
    assert results[0]["bbox"] == pytest.approx(WORLD[0][1], abs=1.0)


def test_an_empty_dataset_gives_no_results(world: str) -> None:
    dataset = open_dataset(world, "val").subset([])
    results = predict_dataset(ModulePredictor(SeesSquares()), card(), dataset, progress=False)
    assert results == []
    assert average_precision(dataset.coco_json(), results).AP is None


def test_an_image_that_cannot_be_read_is_named(world: str) -> None:
    dataset = open_dataset(world, "val")
    (Path(world) / "images" / "2.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"2\.png"):
        predict_dataset(ModulePredictor(SeesSquares()), card(), dataset, progress=False)


def _one_of_two(rank: int, world: str, folder: str) -> None:
    """What each process does; process 0 is the one that tests."""
    meeting = f"file://{folder}/meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    try:
        model = SeesSquares()
        results = predict_dataset(
            ModulePredictor(model), card(), open_dataset(world, "val"), batch_size=2, progress=False
        )
        torch.save({"results": results, "images": sum(model.sizes)}, f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_give_the_results_of_one(world: str, tmp_path: Path) -> None:
    alone = predict_dataset(
        ModulePredictor(SeesSquares()), card(), open_dataset(world, "val"), batch_size=2, progress=False
    )
    other = torch.multiprocessing.get_context("spawn").Process(
        target=_one_of_two, args=(1, world, str(tmp_path))
    )
    other.start()
    _one_of_two(0, world, str(tmp_path))
    other.join()
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert [part["images"] for part in parts] == [3, 2]  # the work was divided
    assert parts[0]["results"] == alone
    assert parts[1]["results"] == alone
