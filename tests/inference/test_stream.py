"""Cameras and streams: their addresses, stalls, drops, reconnection."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from detrscope.core.errors import UserError, WorkFailed
from detrscope.inference.media.address import StreamAddress, camera_address, is_stream, stream_address
from detrscope.inference.media.sources import expand_media_sources
from detrscope.inference.media.stream import Stream
from tests.support.video_server import FRAMES, video_server, write_stream


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_stream(tmp_path_factory.mktemp("stream") / "a.ts").read_bytes()


def opened(url: str, reconnects: int = 3, timeout: float = 0.5) -> Stream:
    return Stream(stream_address(url), timeout, reconnects, pause=lambda _: None)


@pytest.mark.parametrize(
    ("source", "real_time", "stem"),
    [
        ("camera:0", True, "camera-0"),
        ("rtsp://user:secret@cam.example/live/one", True, "one"),
        ("rtsp://cam.example", True, "cam.example"),
        ("https://example.org/a/index.m3u8?token=secret", False, "index"),
        ("stream:http://example.org/video", False, "video"),
        ("stream:-", False, "standard-input"),
    ],
)
def test_streams_are_known_by_their_names(source: str, real_time: bool, stem: str) -> None:
    (media,) = expand_media_sources([source])
    assert media.kind == "stream" and media.address is not None
    assert (media.address.real_time, media.stem) == (real_time, stem)
    assert "secret" not in media.name


@pytest.mark.parametrize(
    "source", ["photo.jpg", "https://example.org/a.mp4", "https://example.org/a.jpg", "dir/camera"]
)
def test_other_sources_are_no_streams(source: str) -> None:
    assert not is_stream(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("camera:", "expected a number or a name of a camera"),
        ("stream:", "expected a URL, a file, a named pipe"),
        ("stream:none.ts", "expected a URL, a file, a named pipe"),
        ("stream:gopher://example.org/a", "scheme 'gopher'; valid: http, https, rtmp"),
    ],
)
def test_malformed_names_of_streams_are_errors(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        expand_media_sources([source])


@pytest.mark.parametrize(
    ("system", "target", "form"),
    [("linux", "/dev/video1", "v4l2"), ("darwin", "1", "avfoundation"), ("win32", "video=Cam", "dshow")],
)
def test_each_system_has_its_capture_format(system: str, target: str, form: str) -> None:
    address = camera_address("camera:1", "Cam" if system == "win32" else "1", system)
    assert (address.target, address.format, address.real_time) == (target, form, True)


def test_camera_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="camera:77: cannot be read as a video"):
        Stream(StreamAddress("/dev/video77", "camera:77", "camera-77", True, "v4l2"), 1, 0)


def test_capture_format_is_read_as_a_camera() -> None:
    address = StreamAddress("testsrc=size=64x48:rate=5", "camera:0", "camera-0", True, "lavfi")
    with Stream(address, 5, 0) as stream:
        frames = stream.frames()
        taken = [next(frames) for _ in range(4)]
    assert [float(frame.time) for frame in taken] == pytest.approx([0, 0.2, 0.4, 0.6])
    assert taken[0].image.shape == (3, 48, 64)


def test_slow_stream_is_read_to_its_end(data: bytes) -> None:
    with video_server(data, ["slow"]) as url, opened(url) as stream:
        frames = list(stream.frames())
    assert [frame.index for frame in frames] == list(range(FRAMES))
    assert [float(frame.time) for frame in frames] == pytest.approx([i / 10 for i in range(FRAMES)])


@pytest.mark.parametrize("fault", ["half", "stall"])
def test_lost_stream_is_connected_again(data: bytes, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.WARNING, logger="detrscope"),
        video_server(data, [fault, "all"]) as url,
        opened(url) as stream,
    ):
        frames = list(stream.frames())
    first = len(frames) - FRAMES
    assert 5 < first < FRAMES
    assert [frame.index for frame in frames] == list(range(len(frames)))
    times = [frame.time for frame in frames]
    assert times == sorted(times) and len(set(times)) == len(times)
    (line,) = [r.getMessage() for r in caplog.records if "connecting again" in r.getMessage()]
    assert f"lost after {first} frames" in line and "1 of 3" in line
    assert fault != "stall" or "no data for 0.5 s" in line


def test_reconnections_are_bounded(data: bytes) -> None:
    with (
        video_server(data, ["half", "half"]) as url,
        opened(url, reconnects=2) as stream,
        pytest.raises(WorkFailed, match=r"lost after \d+ frames \(.*\), 2 reconnections in a row failed"),
    ):
        list(stream.frames())


def test_live_stream_that_closes_is_connected_again(data: bytes) -> None:
    with video_server(data, ["all", "all"]) as url:
        address = replace(stream_address(url), real_time=True)
        stream = Stream(address, 0.5, 2, pause=lambda _: None)
        frames = []
        with stream, pytest.raises(WorkFailed, match=f"lost after {2 * FRAMES} frames"):
            frames.extend(stream.frames())
    assert [frame.index for frame in frames] == list(range(2 * FRAMES))


def test_stream_without_a_frame_is_an_error_at_once() -> None:
    with video_server(b"", []) as url, pytest.raises(UserError, match=r"live\.ts: cannot be read as a video"):
        opened(url)


def test_damaged_frames_of_a_stream_are_skipped(data: bytes) -> None:
    damaged = bytearray(data)
    for packet in range(40, 60):
        damaged[188 * packet + 8 : 188 * packet + 188] = bytes(180)
    with video_server(bytes(damaged), ["all"]) as url, opened(url) as stream:
        count = len(list(stream.frames()))
        assert stream.losses()
    assert FRAMES / 2 < count <= FRAMES


def test_pipe_is_read_as_a_stream(tmp_path: Path, data: bytes) -> None:
    import os
    import threading

    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(data))
    writer.start()
    with opened(f"stream:{pipe}") as stream:
        assert len(list(stream.frames())) == FRAMES
    writer.join()
