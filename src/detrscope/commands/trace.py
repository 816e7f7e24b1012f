"""Trace one image: the Python counterpart of `detrscope see`, without figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detrscope.commands.domain_warning import SHIPPED
from detrscope.core.edits import Edit
from detrscope.data.image_reader import ImageSource
from detrscope.inference.detector import Detector
from detrscope.inference.load_detector import open_detector
from detrscope.trace_interface import Trace


def trace(
    source: ImageSource,
    *,
    model: str | Path | Detector | None = None,
    sites: str | Sequence[str] | None = None,
    edits: Sequence[Edit | str] = (),
    explain: Sequence[int | tuple[int, int]] = (),
) -> Trace:
    """Run a model on one image and record its attention.

    Args:
        source: path, URL, bytes, PIL image, array [H, W, 3] or tensor [3, H, W].
        model: variant, checkpoint, run folder, Hugging Face folder or id, or a `Detector`; None is the shipped model.
        sites: names or patterns of the attention sites to record; None records all of them.
        edits: interventions to apply in the forward pass, or texts such as "decoder.*.cross: heads 2,3 x0".
        explain: queries whose gradients are recorded, for `Trace.relevance`.

    Raises:
        UserError: an image or model that cannot be read; a site, edit or query that does not fit the model.
    """
    return open_detector(model or SHIPPED).trace(source, sites, edits, explain=explain)
