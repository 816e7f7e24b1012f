"""Inputs on which an earlier version went wrong, made after public reports: each is read, or named, by the rule."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest

from detrscope.core.errors import UserError
from detrscope.data.check import check
from detrscope.data.convert import convert_dataset
from detrscope.data.image_reader import read_image
from detrscope.data.open_dataset import open_dataset
from detrscope.evaluation.coco_ap import average_precision
from detrscope.evaluation.results_file import read_results
from detrscope.inference.media.video import Video
from tests.support.coco_problems import pycocotools_evaluation

# Folder of a case; of each split its name, images and boxes; kinds of errors and warnings.
CASES = {
    "01-mac-appledouble/coco": ([("train", 2, 4), ("val", 2, 4)], []),
    "01-mac-appledouble/voc": ([("train", 2, 4), ("val", 2, 4)], ["image-in-two-splits"]),
    "01-mac-appledouble/yolo": ([("train", 2, 4), ("val", 2, 4)], ["image-in-two-splits"]),
    "02-jupyter-checkpoints/yolo": ([("train", 2, 4), ("val", 2, 4)], ["image-in-two-splits"]),
    "04-lvis-no-file-name/lvis": ([("val", 2, 4)], []),
    "05-strings-in-json/coco": ([("val", 2, 4)], []),
    "06-normalised-coco-boxes/coco": ([("train", 4, 8), ("val", 4, 8)], ["box-like-fractions", "tiny-box"]),
    "16-chinese-names/coco": ([("train", 2, 4), ("val", 2, 4)], ["class-without-boxes"]),
    "17-labels-beside-in-images/yolo": ([("train", 4, 8), ("val", 2, 4)], []),
    "17-labels-beside-in-images/images/mine": ([("train", 2, 4), ("val", 2, 4)], ["image-in-two-splits"]),
    "20-label-studio/ls": ([("*", 4, 8)], []),
    "21-cvat-yolo-1.1/cvat": ([("train", 3, 6)], []),
    "23-corners-reversed/coco": ([("train", 1, 0)], ["class-without-boxes", "empty-box", "unused-images"]),
    "23-corners-reversed/voc": ([("train", 2, 4)], ["corners-reversed"]),
    "28-equal-names-in-subfolders/coco": ([("*", 4, 4)], []),
    "28-equal-names-in-subfolders/geti": ([("*", 2, 2)], ["one-file-two-images"]),
    "32-boxes-outside-evaluation/crowd": ([("val", 20, 80)], ["box-clipped"]),
    "33-train-and-trainval/coco": (
        [("test", 1, 2), ("train", 2, 4), ("trainval", 3, 6), ("val", 1, 2)],
        ["image-in-two-splits"],
    ),
    "34-big-ids/big": ([("train", 2, 4), ("val", 2, 4)], []),
    "34-big-ids/huge": ([("train", 0, 0), ("val", 0, 0)], ["bad-id", "class-without-boxes"]),
}


@pytest.fixture(scope="session")
def cases(shared_data: Path) -> Path:
    """The folder of the inputs, which are not part of the project."""
    folder = shared_data.parent / "cases"
    if not folder.is_dir():
        pytest.skip("no folder cases/ beside the real data")
    return folder


@pytest.mark.parametrize("name", CASES)
def test_a_reported_input_is_read_or_named(name: str, cases: Path) -> None:
    splits, kinds = CASES[name]
    report = check(cases / name)
    assert [(s.split, s.images, s.boxes) for s in report.statistics] == splits
    assert sorted({p.kind for p in report.problems if p.severity != "info"}) == kinds


def test_every_folder_of_a_case_is_tested(cases: Path) -> None:
    folders = {path.name for path in cases.iterdir() if path.is_dir()}
    assert folders == {name.split("/")[0] for name in CASES} | {"42-damaged-video"}


def test_text_in_results_is_read_as_numbers(cases: Path) -> None:
    folder = cases / "05-strings-in-json"
    truth = open_dataset(folder / "coco", "val").coco_json()
    assert average_precision(truth, read_results(folder / "results.json")).AP


def test_frames_of_several_cameras_keep_their_pixels(cases: Path, tmp_path: Path) -> None:
    folder = cases / "28-equal-names-in-subfolders" / "coco"
    convert_dataset(folder, tmp_path / "out")
    before = {
        row["id"]: row["file_name"] for row in json.loads((folder / "annotations.json").read_text())["images"]
    }
    after = open_dataset(tmp_path / "out", "train")
    for image in after.images:
        original = read_image(folder / "images" / before[image.id])
        assert (read_image(image.path) == original).all()


def test_ap_of_boxes_that_leave_the_image_is_that_of_pycocotools(cases: Path) -> None:
    folder = cases / "32-boxes-outside-evaluation"
    truth = json.loads((folder / "crowd" / "annotations" / "instances_val.json").read_text())
    results = read_results(folder / "results.json")
    ours = average_precision(open_dataset(folder / "crowd", "val").coco_json(), results)
    assert pytest.approx(pycocotools_evaluation(truth, results).stats[0], abs=1e-9) == ours.AP


def test_ids_beyond_64_bits_stop_with_their_place(cases: Path) -> None:
    with pytest.raises(
        UserError, match=r"instances_train\.json: image .*expected an integer 'id' of 64 bits"
    ):
        open_dataset(cases / "34-big-ids" / "huge", "train")


@pytest.mark.parametrize("name", ["middle.mkv", "middle.mp4", "tail.mkv"])
def test_what_a_damaged_video_has_left_is_kept(name: str, cases: Path) -> None:
    path = cases / "42-damaged-video" / name
    decoded = 0
    with av.open(str(path)) as container:
        packets = container.demux(container.streams.video[0])
        while True:
            try:
                decoded += len(next(packets).decode())
            except StopIteration:
                break
            except av.FFmpegError:
                continue
    assert decoded
    with Video(path) as video:
        read = sum(1 for _ in video.frames())
        assert read == decoded and (read == 60 or video.losses())
