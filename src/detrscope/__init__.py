"""detrscope: train, evaluate, deploy and see inside detection transformers."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from detrscope._version import __version__ as __version__

if TYPE_CHECKING:
    from detrscope.commands.detect import detect as detect
    from detrscope.commands.evaluate import evaluate as evaluate
    from detrscope.commands.faithfulness import faithfulness as faithfulness
    from detrscope.commands.see import see as see
    from detrscope.commands.timelapse import timelapse as timelapse
    from detrscope.commands.trace import trace as trace
    from detrscope.commands.train import train as train
    from detrscope.core.edits import Bias as Bias
    from detrscope.core.edits import Gain as Gain
    from detrscope.core.edits import Swap as Swap
    from detrscope.core.types import Batch as Batch
    from detrscope.core.types import Detections as Detections
    from detrscope.core.types import Outputs as Outputs
    from detrscope.inference.detector import Detector as Detector
    from detrscope.inference.detector import load as load
    from detrscope.trace_interface import Trace as Trace
    from detrscope.views import draw as draw
    from detrscope.views.attention import draw_attention as draw_attention
    from detrscope.views.options import ViewOptions as ViewOptions

# Where each public name is defined. Imported on first use: `import detrscope` must not import torch.
_HOMES = {
    "Batch": "detrscope.core.types",
    "Bias": "detrscope.core.edits",
    "Detections": "detrscope.core.types",
    "Detector": "detrscope.inference.detector",
    "Gain": "detrscope.core.edits",
    "Outputs": "detrscope.core.types",
    "Swap": "detrscope.core.edits",
    "Trace": "detrscope.trace_interface",
    "ViewOptions": "detrscope.views.options",
    "detect": "detrscope.commands.detect",
    "draw": "detrscope.views",
    "draw_attention": "detrscope.views.attention",
    "evaluate": "detrscope.commands.evaluate",
    "faithfulness": "detrscope.commands.faithfulness",
    "load": "detrscope.inference.detector",
    "see": "detrscope.commands.see",
    "timelapse": "detrscope.commands.timelapse",
    "trace": "detrscope.commands.trace",
    "train": "detrscope.commands.train",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(
            f"module 'detrscope' has no attribute '{name}'; public names: {', '.join(__all__)}"
        )
    found = getattr(importlib.import_module(_HOMES[name]), name)
    if inspect.isfunction(found):  # what commands call too, is checked for Python callers here
        from detrscope.core.argument_check import checked_arguments

        found = checked_arguments(found, name=name, names=_public)
    globals()[name] = found
    return found


def _public() -> dict[str, Any]:
    """Return what annotations of public functions name, to check arguments against."""
    homes = {**_HOMES, "TraceData": "detrscope.core.trace_data"}
    return {name: getattr(importlib.import_module(home), name) for name, home in homes.items()}


def __dir__() -> list[str]:
    return __all__
