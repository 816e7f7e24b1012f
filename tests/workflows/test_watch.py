"""Training, watched: the looks are kept, read again and filmed; looking changes nothing of what is learned."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
import torch
from detrscope.views.attention_film import attention_film

from detrscope.core.errors import UserError
from detrscope.training.rundir import RunFolder
from detrscope.workflows.train import train
from detrscope.workflows.watch import LOOKS, read_metrics, read_moments, subjects_of

SOURCE = "drawn-dogs:count=8,val=4,test=1,size=64"
TINY = {
    "data.batch_size": 4,
    "data.short_side": 64,
    "data.long_side": 64,
    "train.epochs": 2,
    "train.max_steps": 4,
    "train.evaluate_every": 2,
    "train.watch.every": 2,
    "train.watch.pictures": 3,
}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETRSCOPE_CACHE", str(folder / "cache"))
        train(preset="drawn-dogs", data=SOURCE, out=folder / "run", overrides=TINY)
        train(
            preset="drawn-dogs",
            data=SOURCE,
            out=folder / "blind",
            overrides={**TINY, "train.watch.pictures": 0},
        )
        with pytest.raises(UserError, match=r"the pictures are those of data.val_split"):
            train(
                preset="drawn-dogs", data=SOURCE, out=folder / "x", overrides={**TINY, "data.val_split": None}
            )
    return folder


def test_looks_are_kept_and_read_again(watched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from detrscope.data.sources import open_dataset

    monkeypatch.setenv("DETRSCOPE_CACHE", str(watched / "cache"))
    subjects = subjects_of(open_dataset(SOURCE, "val"), 3)
    moments = read_moments(watched / "run", subjects)
    assert [m.step for m in moments] == [2, 4]
    for look in (look for moment in moments for look in moment.looks):
        assert look.attention.shape == (4, 4) and abs(look.attention.sum() - 1) < 1e-4
        assert look.image.shape == (64, 64, 3) and len(look.truth_xyxy) > 0
    assert 0 < moments[0].mass_inside < 1
    path = attention_film(moments, read_metrics(watched / "run"), watched / "film.mp4", caption="tiny")
    with av.open(str(path)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    assert frames == 2 + 8


def test_looking_changes_nothing_of_what_is_learned(watched: Path) -> None:
    seen, blind = (RunFolder(watched / name).load_state() for name in ("run", "blind"))
    assert seen is not None and blind is not None
    assert (watched / "run" / LOOKS).exists() and not (watched / "blind" / LOOKS).exists()
    for key, value in seen["model"].items():
        assert torch.equal(value, blind["model"][key]), key
