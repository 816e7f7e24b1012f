"""GIFs: frames, size, time and colours come back out of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detrscope.views.gif import gif


def frame(i: int, width: int = 64) -> np.ndarray:
    pixels = np.zeros((40, width, 3), dtype=np.uint8)
    pixels[:, : 6 * i + 6] = (200, 30 * i, 60)
    return pixels


def test_frames_rate_and_colours_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    with gif(path, 5) as add:
        for i in range(6):
            add(frame(i))
    with Image.open(path) as image:
        assert image.n_frames == 6 and image.info["loop"] == 0 and image.info["duration"] == 200
        for i in range(6):
            image.seek(i)
            found = np.asarray(image.convert("RGB")).astype(int)
            assert found.shape == (40, 64, 3) and np.abs(found - frame(i)).mean() < 6


def test_wide_frames_are_scaled_down(tmp_path: Path) -> None:
    with gif(tmp_path / "a.gif", 5, widest=32) as add:
        add(frame(1))
    with Image.open(tmp_path / "a.gif") as image:
        assert image.size == (32, 20)


def test_a_gif_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), gif(tmp_path / "a.gif", 5) as add:
        add(frame(1))
        raise RuntimeError("stop")
    assert not list(tmp_path.iterdir())
