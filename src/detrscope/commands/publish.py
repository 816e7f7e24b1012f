"""Publish a model: a folder for any web host, in which it runs in the visitor's browser."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from detrscope.commands.export import ExportOptions, export
from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.core.files import atomic_write
from detrscope.explorer.runtime import copy_runtime
from detrscope.explorer.site import MODEL, RUNTIME, SAMPLES, write_site
from detrscope.inference.media.sources import expand_media_sources
from detrscope.inference.onnx_engine import read_metadata, read_onnx, without_input_defaults

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # of samples: what every browser reads


def publish(
    model: str | Path,
    out: str | Path,
    *,
    samples: Sequence[str | Path] = (),
    runtime: str | Path | None = None,
    weights: str | Path | None = None,
) -> Path:
    """Write a page in which a model runs in the browser: pictures are dropped, attention seen, edits applied there.

    The model is exported as ONNX with records as outputs and edits as inputs, and compared with PyTorch before it is
    written. No request leaves the visitor's machine but for the folder's own files.

    Args:
        model: variant, checkpoint, run folder, Hugging Face folder or id.
        out: folder to write; it may be copied to any web host.
        samples: pictures that the page offers; the first is shown.
        runtime: archive or folder of the runtime's package; None fetches it by npm, once.
        weights: for a variant name: a weights file instead of the published one, or "random".

    Returns:
        The page.

    Raises:
        UserError: a wrong argument, or a missing package.
        WorkFailed: the exported model differs from PyTorch, or the runtime cannot be fetched.
    """
    out = Path(out)
    if out.is_file():
        raise UserError(f"{out}: is a file; expected a folder to write to")
    pictures = expand_media_sources([str(sample) for sample in samples]) if samples else []
    for picture in pictures:
        if Path(picture.name).suffix.lower() not in SUFFIXES or not Path(picture.name).is_file():
            raise UserError(
                f"{picture.name}: expected a picture file that browsers read: {', '.join(SUFFIXES)}"
            )
    copy_runtime(out / RUNTIME, runtime)
    export(model, out / MODEL, options=ExportOptions(format="onnx", with_attention=True), weights=weights)
    graph = read_onnx(out / MODEL)
    with atomic_write(out / MODEL) as temporary:
        temporary.write_bytes(without_input_defaults(graph).SerializeToString())
    names = []
    (out / SAMPLES).mkdir(exist_ok=True)
    for picture in pictures:
        name = f"{picture.stem}{Path(picture.name).suffix.lower()}"
        shutil.copyfile(picture.name, out / SAMPLES / name)
        names.append(name)
    page = write_site(out, str(model), names, read_metadata(graph, out / MODEL).to_text())
    total = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    log.info(
        "%s: %.0f MB; any web server can serve the folder, such as python -m http.server", page, total / 1e6
    )
    return page
