"""A published page: a folder for any web host, in which the model runs in the visitor's browser."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detrscope.core.files import atomic_write
from detrscope.core.model_card import TOP
from detrscope.explorer.bundle import page_html

MODEL, PAGE, RUNTIME, SAMPLES = "model.onnx", "index.html", "runtime", "samples"


def write_site(out: Path, name: str, samples: Sequence[str], metadata: str) -> Path:
    """Write the page of a published model.

    Args:
        out: folder that has the model, the runtime and the samples.
        name: name of the model in the commands that the page gives.
        samples: files in the folder of samples.
        metadata: metadata of the exported model, as JSON.

    Returns:
        The page.
    """
    tree: Mapping[str, Any] = json.loads(metadata)
    card = tree["card"]
    published = {
        "name": name,
        "file": MODEL,
        "runtime": f"{RUNTIME}/",
        "samples": list(samples),
        "variant": card["variant"],
        "scoring": card["scoring"],
        "top": card.get("top", TOP),
        "classes": card["classes"],
        "preprocessing": card["preprocessing"],
        "sites": tree["sites"],
    }
    html = page_html(
        f"detrscope: {card['variant']}", [], {"published": published}, connect="'self'", runs=True
    )
    with atomic_write(out / PAGE) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return out / PAGE
