"""Feature maps of the backbone."""

from __future__ import annotations

import torch

from detrscope.views import draw
from detrscope.views.features import FeatureMaps
from tests.support.figures import (
    made,
    texts,
)


def test_features_are_ranked_by_mean_on_the_image() -> None:
    maps = torch.zeros(5, 12, 18)
    for channel, strength in enumerate((1.0, 5.0, 0.0, 3.0, -4.0)):
        maps[channel, 3, 7] = strength
    maps[2, 11, 17] = 100  # on padding
    trace = made({}, features={"backbone.conv1": maps})
    feature = FeatureMaps.of(trace, "backbone.conv1", 4)
    assert feature.channels == [1, 4, 3, 0] and feature.maps.shape == (4, 10, 15) and feature.count == 5
    assert feature.extent == (0, 0, 60, 40)
    titles = [t for t in texts(draw(trace, "features")) if t.startswith("channel ")]
    assert [t.split(":")[0] for t in titles] == [
        "channel 1",
        "channel 4",
        "channel 3",
        "channel 0",
        "channel 2",
    ]
