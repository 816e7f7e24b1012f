"""detrscope: train, evaluate, deploy and see inside detection transformers."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from detrscope._version import __version__ as __version__

if TYPE_CHECKING:
    from detrscope.commands.ablate import ablate as ablate
    from detrscope.commands.compare import compare as compare
    from detrscope.commands.detect import detect as detect
    from detrscope.commands.detect import detect_stream as detect_stream
    from detrscope.commands.edits import hide_region as hide_region
    from detrscope.commands.edits import swaps_from as swaps_from
    from detrscope.commands.evaluate import evaluate as evaluate
    from detrscope.commands.explore import explore as explore
    from detrscope.commands.export import export as export
    from detrscope.commands.faithfulness import faithfulness as faithfulness
    from detrscope.commands.hub import push_to_hub as push_to_hub
    from detrscope.commands.publish import publish as publish
    from detrscope.commands.see import see as see
    from detrscope.commands.timelapse import timelapse as timelapse
    from detrscope.commands.trace import trace as trace
    from detrscope.commands.train import train as train
    from detrscope.commands.why import why as why
    from detrscope.core.edits import Bias as Bias
    from detrscope.core.edits import Gain as Gain
    from detrscope.core.edits import KeyBias as KeyBias
    from detrscope.core.edits import Swap as Swap
    from detrscope.core.tiling import Tiling as Tiling
    from detrscope.core.types import Batch as Batch
    from detrscope.core.types import Detections as Detections
    from detrscope.core.types import Outputs as Outputs
    from detrscope.inference.detector import Detector as Detector
    from detrscope.inference.load_detector import LoadOptions as LoadOptions
    from detrscope.inference.load_detector import load as load
    from detrscope.inference.media.options import MediaOptions as MediaOptions
    from detrscope.trace_interface import Trace as Trace
    from detrscope.views import draw as draw
    from detrscope.views.attention import draw_attention as draw_attention
    from detrscope.views.options import ViewOptions as ViewOptions

# The module of each public name. Imported on first use: `import detrscope` must not import torch.
MODULES = {
    **dict.fromkeys(("Bias", "Gain", "KeyBias", "Swap"), "detrscope.core.edits"),
    "Tiling": "detrscope.core.tiling",
    **dict.fromkeys(("Batch", "Detections", "Outputs"), "detrscope.core.types"),
    "Detector": "detrscope.inference.detector",
    **dict.fromkeys(("LoadOptions", "load"), "detrscope.inference.load_detector"),
    "MediaOptions": "detrscope.inference.media.options",
    "Trace": "detrscope.trace_interface",
    "detect_stream": "detrscope.commands.detect",
    **dict.fromkeys(("hide_region", "swaps_from"), "detrscope.commands.edits"),
    "push_to_hub": "detrscope.commands.hub",
    "ViewOptions": "detrscope.views.options",
    "draw": "detrscope.views",
    "draw_attention": "detrscope.views.attention",
    **{
        name: f"detrscope.commands.{name}"
        for name in (
            "ablate",
            "compare",
            "detect",
            "evaluate",
            "explore",
            "export",
            "faithfulness",
            "publish",
            "see",
            "timelapse",
            "trace",
            "train",
            "why",
        )
    },
}
__all__ = sorted(MODULES)


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(
            f"module 'detrscope' has no attribute '{name}'; public names: {', '.join(__all__)}"
        )
    value = getattr(importlib.import_module(MODULES[name]), name)
    if inspect.isfunction(value):  # commands check their arguments here only, where Python callers come in
        from detrscope.core.argument_check import check_arguments_of

        value = check_arguments_of(value, name=name, names=_annotation_types)
    globals()[name] = value
    return value


def _annotation_types() -> dict[str, Any]:
    """Return the types in annotations of public functions, by name."""
    modules = {**MODULES, "TraceData": "detrscope.core.trace_data"}
    return {name: getattr(importlib.import_module(module), name) for name, module in modules.items()}


def __dir__() -> list[str]:
    return __all__
