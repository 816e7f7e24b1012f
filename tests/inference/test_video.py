"""Reading videos: rotated, damaged, truncated."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from detrscope.commands.detect import detect
from detrscope.core.errors import UserError
from detrscope.inference.media.video import Video, upright_pixels
from tests.support.square_detector import SquareDetector
from tests.support.videos import damaged_clip, write_clip

DETECTOR = SquareDetector()


def test_rotated_video_frames_become_upright() -> None:
    """FFmpeg gives the turn, counter-clockwise, that makes the picture upright."""
    stored = np.zeros((2, 3, 3), dtype=np.uint8)
    stored[0, 2] = 255  # top right

    assert upright_pixels(stored, 0).shape == (3, 2, 3)
    assert upright_pixels(stored, 90).shape == (3, 3, 2)
    assert upright_pixels(stored, 90)[0, 0, 0] == 255  # top left
    assert upright_pixels(stored, -90)[0, 2, 1] == 255  # bottom right
    assert upright_pixels(stored, 180)[0, 1, 0] == 255  # bottom left


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_damaged_frames_are_skipped_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    clip = damaged_clip(tmp_path / "clip", ending, {7, 8, 20})
    with caplog.at_level(logging.WARNING, logger="detrscope"):
        found = detect(DETECTOR, clip, out=tmp_path / "out")
    assert [one.frame for one in found] == [i for i in range(30) if i not in (7, 8, 20)]
    assert [one.time for one in found] == pytest.approx([one.frame / 10 for one in found], abs=2e-3)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "27 frames read; 3 damaged frames skipped (number 7 to 8, 20)" in said
    assert len((tmp_path / "out" / "clip.jsonl").read_text().splitlines()) == 27
    with av.open(str(tmp_path / "out" / "clip.mp4")) as film_of_it:
        assert sum(1 for _ in film_of_it.decode(video=0)) == 27


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_truncated_video_is_read_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    whole = damaged_clip(tmp_path / "clip", ending, set())
    if ending == ".mp4":  # its index must come first for its tail to be cut
        target = tmp_path / "fast.mp4"
        with av.open(str(whole)) as old, av.open(str(target), "w", options={"movflags": "faststart"}) as new:
            stream = new.add_stream_from_template(old.streams.video[0])
            for packet in old.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    new.mux(packet)
        whole = target
    data = whole.read_bytes()
    whole.write_bytes(data[: int(len(data) * 0.7)])
    with caplog.at_level(logging.WARNING, logger="detrscope"):
        found = detect(DETECTOR, whole, out=tmp_path / "out")
    assert 5 < len(found) < 30
    assert "cut off" in caplog.text and f"{len(found)} frames read" in caplog.text
    assert len((tmp_path / "out" / f"{whole.stem}.jsonl").read_text().splitlines()) == len(found)


def test_intact_video_gives_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="detrscope"):
        assert len(detect(DETECTOR, write_clip(tmp_path / "clip.mp4", Fraction(30000, 1001)))) == 8
        assert len(detect(DETECTOR, damaged_clip(tmp_path / "b", ".mkv", set()))) == 30
    assert not caplog.records


def test_video_without_decodable_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no frame of it can be decoded"):
        detect(DETECTOR, damaged_clip(tmp_path / "clip", ".mp4", set(range(30))))


def test_damaged_video_error_names_the_file(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    clip.write_bytes(clip.read_bytes()[:300])
    with pytest.raises(UserError, match=r"clip\.mp4"):
        detect(DETECTOR, clip, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_file_without_video_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(UserError, match="has no video stream"):
        Video(path)


def test_times_of_a_variable_rate_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "uneven.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 80, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for milliseconds in (0, 100, 150, 900):
            pixels = np.zeros((64, 80, 3), np.uint8)
            pixels[16:40, 8:32] = (0, 0, 255)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = milliseconds, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = detect(DETECTOR, path, out=tmp_path / "out")
    assert [one.time for one in found] == pytest.approx([0, 0.1, 0.15, 0.9], abs=2e-3)
    with av.open(str(tmp_path / "out" / "uneven.mp4")) as container:
        times = [float(frame.time or 0) for frame in container.decode(video=0)]
    assert times == pytest.approx([0, 0.1, 0.15, 0.9], abs=2e-3)
