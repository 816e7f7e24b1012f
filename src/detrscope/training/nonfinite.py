"""Find the source of a NaN or infinite number: layer, module, images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from detrscope.core.errors import WorkFailed


class NonFinite(WorkFailed):
    """A value of the training step is NaN or infinite.

    Attributes:
        what: what is not finite, such as `matching cost of decoder layer 2`.
        rows: indices in the batch of the images it comes from, empty where that is not known.
    """

    def __init__(self, what: str, rows: Sequence[int] = ()) -> None:
        where = f" for image {', '.join(map(str, rows))} of the batch" if rows else ""
        super().__init__(f"{what} is not finite{where}")
        self.what = what
        self.rows = tuple(rows)


def first_bad_module(model: nn.Module, run: Callable[[], object]) -> str | None:
    """Return the name of the first module that gives a NaN or infinite number while `run` calls the model.

    Modules are checked in the order in which they finish, so that the innermost one comes first.
    """
    bad: list[str] = []

    def check(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if not bad and isinstance(output, Tensor) and not is_finite(output):
                bad.append(name)

        return hook

    handles = [module.register_forward_hook(check(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return bad[0] if bad else None


def bad_gradients(model: nn.Module) -> list[str]:
    """Return the names of parameters whose gradient has a NaN or infinite number, the last of the path first.

    Gradients flow backwards, so the first of these names is the nearest to the cause.
    """
    return [n for n, p in model.named_parameters() if p.grad is not None and not is_finite(p.grad)][::-1]


def is_finite(tensor: Tensor) -> bool:
    """Return whether no number of a tensor is NaN or infinite."""
    return bool(torch.isfinite(tensor).all())
