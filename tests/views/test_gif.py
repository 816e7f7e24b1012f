"""GIFs: frames, size, duration and colours of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detrscope.views.canvas import PALETTE
from detrscope.views.gif import write_gif


def frame(i: int, width: int = 64) -> np.ndarray:
    pixels = np.zeros((40, width, 3), dtype=np.uint8)
    pixels[:, : 6 * i + 6] = (200, 30 * i, 60)
    return pixels


def test_frames_rate_and_colours_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    with write_gif(path, 5) as add:
        for i in range(6):
            add(frame(i))
    with Image.open(path) as image:
        assert image.n_frames == 6 and image.info["loop"] == 0 and image.info["duration"] == 200
        for i in range(6):
            image.seek(i)
            pixels = np.asarray(image.convert("RGB")).astype(int)
            assert pixels.shape == (40, 64, 3) and np.abs(pixels - frame(i)).mean() < 6


def test_wide_frames_are_scaled_down(tmp_path: Path) -> None:
    with write_gif(tmp_path / "a.gif", 5, max_width=32) as add:
        add(frame(1))
    with Image.open(tmp_path / "a.gif") as image:
        assert image.size == (32, 20)


def test_an_interrupted_gif_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), write_gif(tmp_path / "a.gif", 5) as add:
        add(frame(1))
        raise RuntimeError("stop")
    assert not list(tmp_path.iterdir())


def test_thin_lines_keep_their_colours(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 1), dtype=np.uint8).repeat(3, axis=2)
    pixels[..., 0] = np.linspace(0, 255, 300).astype(np.uint8)  # needs many colours
    for i, colour in enumerate(PALETTE):
        pixels[180, 30 * i : 30 * i + 8] = colour
    with write_gif(tmp_path / "a.gif", 5) as add:
        add(pixels)
        add(pixels)
    with Image.open(tmp_path / "a.gif") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    for i, colour in enumerate(PALETTE):
        assert np.abs(pixels[180, 30 * i + 4] - colour).max() <= 4, colour
