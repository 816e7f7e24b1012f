"""mp4 films: frames, rate, times and size of the file."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from detrscope.views.mp4 import write_mp4


def frames_of(path: Path) -> tuple[Fraction, list[np.ndarray], list[Fraction]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = list(container.decode(stream))
        times = [frame.pts * frame.time_base for frame in decoded]
        return stream.average_rate, [frame.to_ndarray(format="rgb24") for frame in decoded], times


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), 25, 7, 12.5])
def test_rate_frames_and_colours_are_kept(tmp_path: Path, rate: Fraction | float) -> None:
    path = tmp_path / "a.mp4"
    with write_mp4(path, rate) as add:
        for i in range(9):
            add(np.full((50, 64, 3), 20 * i + 20, dtype=np.uint8))
    average_rate, frames, times = frames_of(path)
    assert average_rate == Fraction(rate).limit_denominator(100_000)
    assert len(frames) == 9
    assert [round(float(f.mean())) for f in frames] == pytest.approx([20 * i + 20 for i in range(9)], abs=3)
    assert times == [i / average_rate for i in range(9)]


def test_uneven_frame_times_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    wanted = [Fraction(0), Fraction(1, 10), Fraction(1, 2), Fraction(3, 5)]
    with write_mp4(path, 10) as add:
        for time in wanted:
            add(np.zeros((32, 32, 3), dtype=np.uint8), time)
    assert frames_of(path)[2] == wanted


def test_odd_sizes_are_made_even(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with write_mp4(path, 5) as add:
        add(np.zeros((31, 45, 3), dtype=np.uint8))
    assert frames_of(path)[1][0].shape == (32, 46, 3)


def test_an_interrupted_film_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), write_mp4(tmp_path / "a.mp4", 5) as add:
        add(np.zeros((32, 32, 3), dtype=np.uint8))
        raise RuntimeError("stop")
    assert not list(tmp_path.iterdir())
