"""The benchmark of the planted shortcut: what it says of a detector that uses the badge, and of one that does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.planted_shortcut import away_from_middle, badge_use, table
from PIL import Image

from detrscope.core.types import Detections
from detrscope.data.badge_masks import read_badge_mask
from detrscope.data.open_dataset import open_dataset
from detrscope.lens.pointing import play_pointing_games, summarise_pointing

OPTIONS = "count=2,val=16,test=2,size=64"


class KnowsTheDogs:
    """Detects the annotated dogs; their class is the colour of the badge, or always red."""

    def __init__(self, uses_badge: bool) -> None:
        self.uses_badge = uses_badge
        dataset = open_dataset(f"drawn-dogs:{OPTIONS},badge=class", "val")
        self.rows = {i.path.name: dataset.annotations[i.id] for i in dataset.images}

    def detect(self, path: Path, threshold: float) -> Detections:
        assert threshold == 0.5
        rows = self.rows[path.name]
        pixels, badges = np.asarray(Image.open(path)).astype(int), read_badge_mask(path)
        blue = [
            bool(self.uses_badge and (pixels[badges == n + 1] @ (-1, 0, 1)).mean() > 60)
            for n in range(len(rows))
        ]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (row.bbox_xywh for row in rows)]
        return Detections(
            boxes_xyxy=torch.tensor(boxes).reshape(-1, 4),
            scores=torch.ones(len(rows)),
            labels=torch.tensor([1 + b for b in blue], dtype=torch.int64),
            names=["blue dog" if b else "red dog" for b in blue],
            query_ids=torch.arange(len(rows)),
            height=64,
            width=64,
        )


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETRSCOPE_CACHE", str(tmp_path))


def test_classes_flip_with_the_badge_that_decides_them() -> None:
    use = badge_use(KnowsTheDogs(uses_badge=True), OPTIONS, 0.5)  # type: ignore[arg-type]
    assert use.dogs >= 8 and use.right == use.flipped == use.images_flipped == 1 and use.without < 1


def test_classes_stay_where_the_badge_is_not_used() -> None:
    use = badge_use(KnowsTheDogs(uses_badge=False), OPTIONS, 0.5)  # type: ignore[arg-type]
    assert use.right == use.without == pytest.approx(1 - use.flipped) and 0 < use.flipped < 0.95


def test_badges_away_from_the_middle_are_chosen() -> None:
    dataset = open_dataset(f"drawn-dogs:{OPTIONS},badge=class", "val")
    near, far = away_from_middle(dataset, -1), away_from_middle(dataset, 2)
    assert 0 < len(far) < len(near) < len(dataset), "no images of none or several dogs"
    for image in far.images:
        ((x, y, width, height),) = (row.bbox_xywh for row in far.annotations[image.id])
        middle = read_badge_mask(image.path)[
            int(y + height / 2) - 1 : int(y + height / 2) + 2, int(x + width / 2) - 1 : int(x + width / 2) + 2
        ]
        assert middle.size and not middle.any()


def test_table_puts_the_best_method_first() -> None:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:2] = True
    maps = [("bad", (~mask).float()), ("the region itself", mask.float()), ("good", mask.float())]
    played = [play_pointing_games(m, mask, 0, name, n) for name, m in maps for n in range(2)]
    rows = table(tuple(summarise_pointing(played))).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| good", "| bad", "| the region itself"]
    assert rows[0] == "| good | 100.0% ± 0.0 | 100.0% ± 0.0 | 100.0% ± 0.0 | 4.0 |"
