"""A server on this machine that sends a video as a stream: slowly, in part, or not at all."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np

FRAMES = 30


def write_stream(path: Path, frames: int = FRAMES) -> Path:
    """An MPEG transport stream of 64 x 48 at 10 frames a second, each a key frame: a blue square on black."""
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "1", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        noise = np.random.default_rng(0).integers(
            0, 60, (48, 64, 3), np.uint8
        )  # so that it does not fit one buffer
        for i in range(frames):
            pixels = np.roll(noise, i, axis=0)
            pixels[8:32, 8 + i % 20 : 32 + i % 20] = (0, 0, 255)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@contextmanager
def video_server(data: bytes, answers: list[str]) -> Iterator[str]:
    """Yield a URL; each request is answered as the next of `answers` says, and those after the last one refused.

    all: everything, with its length. half: the first half, then the connection is closed. stall: the first half, then
    nothing until the server ends. slow: everything, in small pieces.
    """
    left, over = list(answers), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if not left:
                self.send_error(404)
                return
            answer = left.pop(0)
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            end = len(data) if answer in ("all", "slow") else len(data) // 2
            step = max(1, len(data) // 20) if answer == "slow" else len(data)
            try:
                for start in range(0, end, step):
                    self.wfile.write(data[start : min(start + step, end)])
                    self.wfile.flush()
                    if answer == "slow":
                        time.sleep(0.02)
                if answer == "stall":
                    over.wait(30)
            except OSError:
                pass  # the reader has left

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}/live.ts"
        finally:
            over.set()
            httpd.shutdown()
            thread.join()
