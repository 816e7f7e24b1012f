"""Batch norms over several processes equal one batch norm over all images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from detrscope.blocks.synced_norm import SyncedBatchNorm2d, sync_batch_norms
from detrscope.core.distributed import reduce_over_ranks

IMAGES = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _norm() -> nn.Sequential:
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(3).double()
    nn.init.normal_(norm.weight)
    return nn.Sequential(norm)


def _run(module: nn.Module, images: torch.Tensor, counts: bool = True) -> dict[str, torch.Tensor]:
    images = images.clone().requires_grad_()
    out = module(images)
    loss = (out * torch.linspace(0, 1, 16, dtype=torch.float64).view(4, 4)).square().sum()
    (loss * counts).backward()
    return {
        "out": out.detach(),
        "gradient": images.grad,
        "weight_gradient": module[0].weight.grad,
        **module[0].state_dict(),
    }


def _one_of_three(rank: int, folder: str) -> None:
    """Two processes have images, 2 and 3; the third only keeps step."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=3
    )
    try:
        module = _norm()
        group = sync_batch_norms(module)
        assert group is not None and isinstance(module[0], SyncedBatchNorm2d)
        group.counts = rank < 2
        result = _run(module, (IMAGES[:2], IMAGES[2:], 9 + IMAGES[:1])[rank], group.counts)
        result["weight_gradient"] = reduce_over_ranks(result["weight_gradient"], "sum")
        torch.save(result, f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def test_statistics_and_gradients_are_those_of_all_images(tmp_path: Path) -> None:
    expected = _run(_norm(), IMAGES)
    torch.multiprocessing.spawn(_one_of_three, (str(tmp_path),), nprocs=3)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(3)]
    for name in ("out", "gradient"):
        torch.testing.assert_close(torch.cat([part[name] for part in parts[:2]]), expected[name])
    assert not parts[2]["gradient"].any()
    for name in ("weight_gradient", "running_mean", "running_var", "num_batches_tracked"):
        for part in parts:
            torch.testing.assert_close(part[name], expected[name])


def test_alone_and_in_evaluation_it_is_the_usual_norm() -> None:
    plain, synced = _norm(), _norm()
    synced[0].__class__ = SyncedBatchNorm2d
    torch.testing.assert_close(_run(synced, IMAGES), _run(plain, IMAGES), rtol=0, atol=0)
    assert torch.equal(synced.eval()(IMAGES), plain.eval()(IMAGES))


def test_frozen_norms_stay() -> None:
    module = _norm().requires_grad_(False)
    assert sync_batch_norms(module) is None and type(module[0]) is nn.BatchNorm2d
