"""Addresses of cameras and streams, and how FFmpeg opens them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from detrscope.core.download import shown_url, url_path
from detrscope.core.errors import UserError

CAMERA, STREAM = "camera:", "stream:"  # in front of a source
REAL_TIME = frozenset(
    {"rtp", "rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp"}
)  # frames come whether read or not
SCHEMES = REAL_TIME | {"http", "https", "tcp"}
STREAM_SUFFIXES = frozenset({".m3u8", ".mjpeg", ".mjpg", ".mpd", ".sdp", ".ts"})  # of an http(s) URL
STANDARD_INPUT = "-"
CAPTURE_FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}


@dataclass(frozen=True)
class StreamAddress:
    """What FFmpeg opens.

    Attributes:
        target: URL, path or device.
        name: name in results and messages, without passwords.
        stem: for names of files; may be empty.
        real_time: whether frames come whether they are read or not, so that a slow reader has to drop some.
        format: FFmpeg's format; None where it is found in the data.
        options: options of the format.
    """

    target: str
    name: str
    stem: str
    real_time: bool
    format: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


def is_stream(source: object) -> bool:
    """Return whether a source is a camera or stream.

    That is `camera:0`, anything after `stream:`, a URL of rtsp, rtmp, rtp, srt, udp or tcp, and an http(s) URL whose
    path ends in `STREAM_SUFFIXES`.
    """
    if not isinstance(source, str):
        return False
    if source.lower().startswith((CAMERA, STREAM)):
        return True
    scheme = _scheme(source)
    if scheme in ("http", "https"):
        return PurePosixPath(url_path(source)).suffix.lower() in STREAM_SUFFIXES
    return scheme in SCHEMES


def stream_address(source: str) -> StreamAddress:
    """Return how to open a source for which `is_stream` holds.

    Raises:
        UserError: no camera or URL is named, the scheme is unknown, or no way to read this system's cameras is known.
    """
    if source.lower().startswith(CAMERA):
        return camera_address(source, source[len(CAMERA) :])
    target = source[len(STREAM) :] if source.lower().startswith(STREAM) else source
    if target == STANDARD_INPUT:
        return StreamAddress("pipe:0", "standard input", "standard-input", False)
    scheme = _scheme(target)
    if not scheme:
        path = Path(target).expanduser()
        if not target or not path.exists() or path.is_dir():
            raise UserError(
                f"{source}: expected a URL, a file, a named pipe, or - for standard input after {STREAM}"
            )
        return StreamAddress(str(path), target, path.stem, False)
    if scheme not in SCHEMES:
        raise UserError(f"{shown_url(source)}: scheme '{scheme}'; valid: {', '.join(sorted(SCHEMES))}")
    stem = PurePosixPath(url_path(target)).stem or (urlsplit(target).hostname or "")
    options = {"rtsp_flags": "prefer_tcp"} if scheme in ("rtsp", "rtsps") else {}
    return StreamAddress(target, shown_url(target), stem, scheme in REAL_TIME, options=options)


def camera_address(source: str, device: str, system: str = sys.platform) -> StreamAddress:
    """Return how this system captures from a camera: a number from 0, or the system's own name of a device."""
    kind = CAPTURE_FORMATS.get(system)
    if kind is None:
        raise UserError(f"{source}: no way to read cameras is known on {system}; give a stream")
    if not device:
        raise UserError(f"{source}: expected a number or a name of a camera, such as {CAMERA}0")
    options = {}
    target = device
    if kind == "v4l2":
        target = f"/dev/video{device}" if device.isdecimal() else device
    elif kind == "avfoundation":
        options = {"framerate": "30"}  # its own default, 29.97, is refused by most cameras
    else:
        target = f"video={_dshow_name(source, int(device)) if device.isdecimal() else device}"
    stem = f"camera-{Path(device).name}"
    return StreamAddress(target, source, stem, True, kind, options)


def _dshow_name(source: str, number: int) -> str:
    """Return the name of Windows' camera of a number."""
    from av.device import enumerate_input_devices

    names = [d.name for d in enumerate_input_devices("dshow") if "video" in d.media_types]
    if number >= len(names):
        raise UserError(f"{source}: there are {len(names)} cameras: {', '.join(names) or 'none'}")
    return str(names[number])


def _scheme(text: str) -> str:
    scheme, separator, _ = text.partition("://")
    return scheme.lower() if separator and scheme.isalnum() else ""
