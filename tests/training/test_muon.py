"""Muon: orthogonalised momentum for matrices, AdamW for the rest."""

from __future__ import annotations

import pytest
import torch

from detrscope.training import muon
from detrscope.training.muon import Muon, orthogonalise


def test_orthogonalise_gives_singular_values_near_one() -> None:
    matrices = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    for x in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalise(x, steps=5).float())
        assert values.min() > 0.5 and values.max() < 1.3
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    likeness = torch.nn.functional.cosine_similarity(
        orthogonalise(matrices, 5).flatten(1), (u @ v).flatten(1)
    )
    assert likeness.min() > 0.97


@pytest.mark.parametrize("shape", [(3, 16, 144), (2, 144, 16), (2, 16, 40)])
@pytest.mark.parametrize("steps", [1, 4])
def test_gram_iteration_equals_the_plain_one(
    shape: tuple[int, ...], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "iteration_dtype", lambda device: torch.float32)
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    updates = orthogonalise(matrices, steps)
    monkeypatch.setattr(muon, "WIDE", 1000)
    torch.testing.assert_close(updates, orthogonalise(matrices, steps), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("is_fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_muon_iterates_in_the_faster_precision(
    is_fast: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "multiplies_fast", lambda _: is_fast)
    assert muon.iteration_dtype(torch.device("cpu")) == dtype
    assert muon.iteration_dtype(torch.device("cuda")) == torch.bfloat16


def test_muon_updates_its_groups_and_adamw_the_others() -> None:
    torch.manual_seed(0)
    matrix, bias = torch.nn.Parameter(torch.randn(32, 16)), torch.nn.Parameter(torch.randn(16))
    twin = torch.nn.Parameter(bias.detach().clone())
    start = matrix.detach().clone()
    groups = [
        {"params": [matrix], "lr": 0.1, "weight_decay": 0.0, "orthogonal": True},
        {"params": [bias], "lr": 0.01, "weight_decay": 0.1, "orthogonal": False},
    ]
    muon, adamw = Muon(groups), torch.optim.AdamW([twin], lr=0.01, weight_decay=0.1)
    for _ in range(3):
        matrix.grad, bias.grad, twin.grad = torch.randn(32, 16), torch.ones(16), torch.ones(16)
        muon.step()
        adamw.step()
    assert torch.equal(bias, twin)
    assert set(muon.state[matrix]) == {"momentum", "step"}
    moved = (matrix - start).detach()
    per_step = 0.1 * 0.2 * 32**0.5 / 32**0.5  # root mean square of an orthogonal 32 x 16 matrix is 1/sqrt(32)
    assert 0.3 * per_step < moved.square().mean().sqrt() < 3.5 * per_step
    state = muon.state_dict()
    again = Muon(
        [{**g, "params": [torch.nn.Parameter(p.detach().clone()) for p in g["params"]]} for g in groups]
    )
    again.load_state_dict(state)
    assert [g["orthogonal"] for g in again.param_groups] == [True, False]
