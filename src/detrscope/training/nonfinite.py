"""NaN and infinity, found at the source: which layer, which module, which images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from detrscope.core.errors import WorkFailed


class NonFinite(WorkFailed):
    """A value of the training step is NaN or infinite.

    Attributes:
        what: what is not finite, such as `matching cost of decoder layer 2`.
        rows: the places in the batch of the images it comes from, empty where that is not known.
    """

    def __init__(self, what: str, rows: Sequence[int] = ()) -> None:
        where = f" for image {', '.join(map(str, rows))} of the batch" if rows else ""
        super().__init__(f"{what} is not finite{where}")
        self.what = what
        self.rows = tuple(rows)


def first_bad_module(model: nn.Module, run: Callable[[], object]) -> str | None:
    """The name of the first module that puts out a NaN or infinite number while `run` calls the model.

    Modules are asked in the order in which they finish, so the innermost one that made it comes first.
    """
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if not found and isinstance(output, Tensor) and not is_finite(output):
                found.append(name)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def bad_gradients(model: nn.Module) -> list[str]:
    """Names of the parameters whose gradient holds a NaN or infinite number, the last of the path first.

    Gradients flow backwards, so the first of these names is the nearest to where it went wrong.
    """
    return [n for n, p in model.named_parameters() if p.grad is not None and not is_finite(p.grad)][::-1]


def is_finite(tensor: Tensor) -> bool:
    """Whether no number in it is NaN or infinite."""
    return bool(torch.isfinite(tensor).all())
