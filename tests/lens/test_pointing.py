"""Pointing games on maps whose answer is known, and against Quantus where it is installed."""

from __future__ import annotations

import math

import pytest
import torch

from detrscope.lens.pointing import play_pointing_games, summarise_pointing


def region(rows: slice, columns: slice, size: int = 12) -> torch.Tensor:
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[rows, columns] = True
    return mask


def test_a_map_of_the_region_hits_with_all_its_energy() -> None:
    mask = region(slice(3, 5), slice(6, 9))
    found = play_pointing_games(mask.float(), mask, 0, "known", 0)
    assert found.hit and found.inside and found.energy == 1 and found.area == pytest.approx(6 / 144)


def test_tolerance_is_the_distance_along_x_and_y() -> None:
    mask, importance = region(slice(3, 5), slice(6, 9)), torch.zeros(12, 12)
    importance[6, 10] = 1.0  # two rows below and two columns right of the nearest pixel
    assert play_pointing_games(importance, mask, 2, "m", 0).hit
    near = play_pointing_games(importance, mask, 1.9, "m", 0)
    assert not near.hit and not near.inside and near.energy == 0


def test_energy_ignores_an_offset_and_a_factor() -> None:
    generator = torch.Generator().manual_seed(0)
    importance, mask = torch.rand(12, 12, generator=generator), region(slice(2, 7), slice(1, 4))
    plain = play_pointing_games(importance, mask, 0, "m", 0)
    moved = play_pointing_games(importance * 7 + 100, mask, 0, "m", 0)
    assert moved.energy == pytest.approx(plain.energy, rel=1e-5)
    lowest = importance - importance.min()
    assert plain.energy == pytest.approx(float(lowest[mask].sum() / lowest.sum()))


def test_an_even_map_has_the_energy_of_the_area() -> None:
    mask = region(slice(0, 3), slice(0, 4))
    assert play_pointing_games(torch.ones(12, 12), mask, 0, "m", 0).energy == pytest.approx(12 / 144)


def test_summaries_average_random_maps_per_detection_first() -> None:
    mask = region(slice(0, 6), slice(0, 12))
    top, bottom = torch.zeros(12, 12), torch.zeros(12, 12)
    top[0, 0], bottom[11, 11] = 1.0, 1.0
    maps = [("a", 0, top), ("a", 1, bottom), ("b", 0, top), ("b", 0, bottom), ("b", 1, top), ("b", 1, top)]
    a, b = summarise_pointing([play_pointing_games(m, mask, 0, name, n) for name, n, m in maps])
    assert (a.method, a.detections, a.hits, a.inside, a.energy) == ("a", 2, 0.5, 0.5, 0.5)
    assert a.hits_error == pytest.approx(0.5) and a.inside_error == pytest.approx(0.5) and a.area == 0.5
    assert (b.detections, b.hits, b.energy_error) == (2, 0.75, pytest.approx(0.25))
    (single,) = summarise_pointing([play_pointing_games(top, mask, 0, "one", 0)])
    assert single.hits == 1 and math.isnan(single.hits_error)


@pytest.mark.parametrize(
    ("importance", "mask", "message"),
    [
        (torch.ones(4, 4), torch.ones(4, 5, dtype=torch.bool), "expected the same"),
        (torch.ones(4, 4), torch.zeros(4, 4, dtype=torch.bool), "at least one pixel"),
        (torch.full((4, 4), float("nan")), torch.ones(4, 4, dtype=torch.bool), "finite"),
    ],
)
def test_wrong_maps_are_refused(importance: torch.Tensor, mask: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        play_pointing_games(importance, mask, 0, "m", 0)


def test_equals_quantus() -> None:
    """Its pointing game has no tolerance; its mass accuracy is the energy of a map whose smallest value is 0."""
    reason = "quantus needs scikit-image, scikit-learn and pandas: too heavy for the extra `test`"
    quantus = pytest.importorskip("quantus", reason=reason)
    generator = torch.Generator().manual_seed(1)
    maps = torch.rand(200, 16, 16, generator=generator)
    maps = maps - maps.amin((1, 2), keepdim=True)
    masks = torch.zeros(200, 16, 16, dtype=torch.bool)
    for mask in masks:
        y, x, height, width = torch.randint(1, 9, (4,), generator=generator).tolist()
        mask[y : y + height, x : x + width] = True
    found = [play_pointing_games(m, r, 0, "m", n) for n, (m, r) in enumerate(zip(maps, masks, strict=True))]
    batches = {"a_batch": maps[:, None].numpy(), "s_batch": masks[:, None].numpy()}
    quiet = {"disable_warnings": True, "display_progressbar": False}
    pointed = quantus.PointingGame(**quiet).evaluate_batch(**batches)
    assert [f.inside for f in found] == [bool(hit) for hit in pointed] and 0 < sum(pointed) < 200
    mass = quantus.RelevanceMassAccuracy(**quiet).evaluate_batch(**batches)
    assert [f.energy for f in found] == pytest.approx(mass.tolist(), rel=1e-4)
