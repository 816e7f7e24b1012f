"""Detection in a pipeline: the same results, limits, streams, tracks, attention."""

from __future__ import annotations

import json
import logging
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from detrscope.commands.detect import detect, detect_stream
from detrscope.core.errors import UserError, WorkFailed
from detrscope.core.probe import Probe
from detrscope.core.types import Outputs
from detrscope.inference.detector import Detector
from detrscope.inference.media.options import MediaOptions
from detrscope.inference.media.video import Video
from detrscope.inference.torch_engine import TorchEngine
from detrscope.views.mp4 import write_mp4
from tests.support.square_detector import SquareDetector
from tests.support.traces import detector_of
from tests.support.video_server import FRAMES, video_server, write_stream
from tests.support.videos import damaged_clip, write_clip

SQUARES = SquareDetector()


@pytest.fixture(scope="module")
def sprint() -> Detector:
    return detector_of("sprint-deformable-n")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_stream(tmp_path_factory.mktemp("stream") / "a.ts").read_bytes()


def square(number: int) -> np.ndarray:
    pixels = np.zeros((64, 80, 3), np.uint8)
    pixels[16:40, 8 + number % 40 : 32 + number % 40] = (0, 0, 255)
    return pixels


def film_frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_frames_give_what_the_detector_gives_for_each(tmp_path: Path, sprint: Detector) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    results = detect(sprint, clip, threshold=0.0)
    with Video(clip) as video:
        for frame, result in zip(video.frames(), results, strict=True):
            alone = sprint.detect(frame.image, threshold=0.0)
            torch.testing.assert_close(result.detections.boxes_xyxy, alone.boxes_xyxy, atol=1e-2, rtol=1e-4)
            torch.testing.assert_close(result.detections.scores, alone.scores, atol=1e-4, rtol=1e-4)


def test_small_frames_are_run_in_batches(tmp_path: Path) -> None:
    sizes: list[int] = []

    class Counts(TorchEngine):
        def predict(
            self, images: torch.Tensor, padding: torch.Tensor | None = None, probe: Probe | None = None
        ) -> Outputs:
            sizes.append(len(images))
            return super().predict(images, padding, probe)

    detector = SquareDetector()
    detector.engine = Counts(detector.engine.model)  # type: ignore[attr-defined]
    detect(detector, damaged_clip(tmp_path / "clip", ".mp4", set()))
    assert sizes == [8, 8, 8, 6]


def test_limits_end_a_video(tmp_path: Path) -> None:
    clip = damaged_clip(tmp_path / "clip", ".mp4", set())  # 30 frames, 10 a second
    assert [r.frame for r in detect(SQUARES, clip, media=MediaOptions(frames=11))] == list(range(11))
    assert [r.frame for r in detect(SQUARES, clip, media=MediaOptions(seconds=0.95))] == list(range(10))


def test_results_come_before_the_video_is_read(tmp_path: Path) -> None:
    clip = tmp_path / "long.mp4"
    with write_mp4(clip, 25, preset="ultrafast") as add:
        for i in range(600):
            add(square(i))
    with detect_stream(SQUARES, clip, out=tmp_path / "out") as stream:
        assert next(stream).frame == 0
        assert stream.frames == 1 and stream.info is not None and stream.info.length == 600
    assert not list((tmp_path / "out").iterdir())  # left early: nothing is half-written


def test_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    peaks = []
    for frames in (150, 600):
        clip = tmp_path / f"{frames}.mp4"
        with write_mp4(clip, 25, preset="ultrafast") as add:
            for i in range(frames):
                add(square(i))
        with detect_stream(SQUARES, clip, out=tmp_path / "out") as stream:
            tracemalloc.start()
            assert sum(1 for _ in stream) == frames
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] + 200_000


def test_stream_without_limits_must_be_iterated_over() -> None:
    with pytest.raises(UserError, match="a stream may have no end; give media=MediaOptions"):
        detect(SQUARES, "stream:-")


def test_stream_is_written_like_a_video(tmp_path: Path, data: bytes) -> None:
    with video_server(data, ["slow"]) as url:
        found = detect(SQUARES, url, out=tmp_path / "out", media=MediaOptions(frames=12))
    assert [one.frame for one in found] == list(range(12)) and found[3].detections.names == ("sky",)
    assert len(film_frames(tmp_path / "out" / "live.mp4")) == 12
    lines = (tmp_path / "out" / "live.jsonl").read_text().splitlines()
    assert json.loads((tmp_path / "out" / "detections.json").read_text()) == [
        json.loads(line) for line in lines
    ]


def test_lost_stream_keeps_what_was_seen(tmp_path: Path, data: bytes) -> None:
    with video_server(data, ["half"]) as url, pytest.raises(WorkFailed, match="lost after"):
        detect(SQUARES, url, out=tmp_path / "out", media=MediaOptions(frames=99, timeout=0.5, reconnects=0))
    count = len(film_frames(tmp_path / "out" / "live.mp4"))
    assert 5 < count < FRAMES
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())) == count


def test_interrupted_stream_completes_its_files(tmp_path: Path, data: bytes) -> None:
    seen = 0
    with video_server(data, ["stall"]) as url, pytest.raises(KeyboardInterrupt):
        options = MediaOptions(timeout=4)
        with detect_stream(SQUARES, url, out=tmp_path / "out", media=options) as stream:
            for _ in stream:
                seen += 1
                if seen == 8:  # Ctrl-C while nothing comes
                    raise KeyboardInterrupt
    count = len(film_frames(tmp_path / "out" / "live.mp4"))
    assert count >= 8
    assert len((tmp_path / "out" / "live.jsonl").read_text().splitlines()) == count


def test_frames_that_come_too_fast_are_counted(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import time

    class Slow(TorchEngine):
        def predict(
            self, images: torch.Tensor, padding: torch.Tensor | None = None, probe: Probe | None = None
        ) -> Outputs:
            time.sleep(0.1)
            return super().predict(images, padding, probe)

    detector = SquareDetector()
    detector.engine = Slow(detector.engine.model)  # type: ignore[attr-defined]
    monkeypatch.setattr("detrscope.inference.media.address.REAL_TIME", frozenset({"http"}))
    with caplog.at_level(logging.WARNING, logger="detrscope"), video_server(data, ["all"]) as url:
        stream = detect_stream(detector, url, media=MediaOptions(seconds=60, reconnects=0))
        found = []
        with stream, pytest.raises(WorkFailed, match=f"lost after {FRAMES} frames"):
            found.extend(stream)
    assert 3 <= len(found) < FRAMES
    assert f"{FRAMES - len(found)} frames left out, which came faster" in caplog.text
    assert [one.frame for one in found] == sorted(one.frame or 0 for one in found)


def test_attention_is_drawn_and_changes_no_detection(tmp_path: Path, sprint: Detector) -> None:
    clip, name = write_clip(tmp_path / "clip.mp4"), sprint.classes.names[0]
    plain = detect(sprint, clip, threshold=0.0, out=tmp_path / "plain")
    drawn = detect(sprint, clip, threshold=0.0, out=tmp_path / "drawn", media=MediaOptions(attention=(name,)))
    assert [one.to_json() for one in drawn] == [one.to_json() for one in plain]
    before, after = (film_frames(tmp_path / folder / "clip.mp4")[3] for folder in ("plain", "drawn"))
    assert np.abs(before.astype(int) - after.astype(int)).mean() > 20


def test_attention_of_classes_is_a_sequence_of_names() -> None:
    with pytest.raises(UserError, match="attention 'dog': expected several names"):
        MediaOptions(attention="dog")  # type: ignore[arg-type]


def test_tracks_begin_anew_in_each_video(tmp_path: Path) -> None:
    clips = [write_clip(tmp_path / f"{name}.mp4") for name in ("a", "b")]
    with detect_stream(SQUARES, [*clips], media=MediaOptions(track=True)) as stream:
        ids = [result.detections.track_ids for result in stream]
    assert [int(i[0]) for i in ids if i is not None] == 2 * [-1, *7 * [0]]
    assert [(Path(t.source).name, t.track.frames) for t in stream.tracks] == [("a.mp4", 7), ("b.mp4", 7)]


def test_summary_has_the_share_of_each_stage(tmp_path: Path) -> None:
    with detect_stream(SQUARES, write_clip(tmp_path / "clip.mp4")) as stream:
        assert len(list(stream)) == 8
    assert stream.summary().startswith("8 frames in ")
    assert all(f"{name} " in stream.summary() for name in ("reading", "model", "writing"))
