"""Push a model to the Hugging Face hub: weights, card and pictures in one commit."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from detrscope.checkpoints.load import load_model
from detrscope.checkpoints.native import Loaded, save_checkpoint
from detrscope.checkpoints.third_party import HUB_CONFIG, HUB_WEIGHTS
from detrscope.commands.hub_card import CardText, Example, hub_readme
from detrscope.commands.hub_upload import signed_in_api, upload_to_hub
from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.core.files import check_writable_folder
from detrscope.data.image_reader import read_image
from detrscope.data.write_coco import atomic_new_folder, check_new_folder
from detrscope.inference.detector import Detector
from detrscope.inference.open_engine import is_exported, open_engine
from detrscope.training.run_folder import CONFIG, CURVES, RunFolder
from detrscope.views.detection_image import draw_detections

README = "README.md"
THRESHOLD = 0.5  # minimum score of the detections in the pictures
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # the hub's identifiers


@dataclass(frozen=True)
class HubPush:
    """Result of `push_to_hub`.

    Attributes:
        files: names of the repository's files that were written.
        folder: folder that holds them; None where none was kept.
        url: address of the repository; None where nothing was uploaded.
    """

    files: tuple[str, ...]
    folder: Path | None
    url: str | None


def push_to_hub(
    model: str | Path,
    repository: str,
    *,
    license: str,
    images: Sequence[str | Path] = (),
    dataset: str | None = None,
    private: bool = False,
    dry_run: bool = False,
    out: str | Path | None = None,
) -> HubPush:
    """Upload a model with its card to the Hugging Face hub, from where `load` reads it by the repository's name.

    The files are the weights with their metadata, a card (classes, metrics, preprocessing, how to load), the curves of
    a run, and for each image one picture of its detections and one of the attention of the best. Images of the dataset
    are never uploaded unless given here.

    Args:
        model: run folder, checkpoint, variant, or Hugging Face folder.
        repository: name on the hub, such as `alice/cells`; it is made if it does not exist.
        license: licence of the weights, as the hub names it: "apache-2.0", "mit", "cc-by-4.0", "other" ...
        images: paths or URLs of images that the card shows.
        dataset: name of the dataset that the metrics are of; None takes it from the run's settings.
        private: make the repository private, where it is made.
        dry_run: write the files to a folder and upload nothing; needs neither network nor token.
        out: folder to keep the files in; None keeps none, or with `dry_run` writes `hub-NAME`.

    Returns:
        The files, their folder and the repository's address.

    Raises:
        UserError: a wrong argument, a model or image that cannot be read, no token, or a public repository where a
            private one was asked for.
        WorkFailed: the hub cannot be reached, or refused the upload.
    """
    _check_names(repository, license)
    if is_exported(model):
        raise UserError(f"{model}: is an exported model; push the run or checkpoint that it was made from")
    if out is None and dry_run:
        out = f"hub-{repository.partition('/')[2]}"
    if out is not None:
        check_writable_folder(out)
        check_new_folder(Path(out))
    api = None if dry_run else signed_in_api()
    loaded = load_model(model)
    loaded = replace(loaded, card=replace(loaded.card, source=_without_folders(loaded.card.source)))
    with _folder(out) as folder:
        files = _write_files(folder, model, loaded, repository, license, images, dataset)
        url = None if api is None else upload_to_hub(api, folder, files, repository, private)
    return HubPush(files, None if out is None else Path(out), url)


def _check_names(repository: str, license: str) -> None:
    if not REPOSITORY.fullmatch(repository):
        raise UserError(f"repository '{repository}': expected OWNER/NAME, such as alice/cells")
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import HFValidationError

    try:
        hf_hub_url(repository, README)  # checks the name
    except HFValidationError as error:
        raise UserError(f"repository '{repository}': {str(error).splitlines()[0]}") from None
    if not LICENSE.fullmatch(license):
        raise UserError(
            f"license '{license}': expected the hub's name of a licence in small letters, such as apache-2.0, mit,"
            " cc-by-4.0 or other"
        )


@contextmanager
def _folder(out: str | Path | None) -> Iterator[Path]:
    """Yield the folder to write: `out`, made when the block succeeds, or a temporary one."""
    if out is not None:
        with atomic_new_folder(Path(out)) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="detrscope-hub-") as temporary:
        yield Path(temporary)


def _write_files(
    folder: Path,
    model: str | Path,
    loaded: Loaded,
    repository: str,
    license: str,
    images: Sequence[str | Path],
    dataset: str | None,
) -> tuple[str, ...]:
    """Write the repository's files; return their names."""
    card = loaded.card
    save_checkpoint(folder / HUB_WEIGHTS, loaded.model, card)  # first: an engine may change the model
    examples = _draw_examples(folder, loaded, images)
    run = _run_of(model)
    curves = run is not None and (run / CURVES).is_file()
    if run is not None and curves:
        shutil.copyfile(run / CURVES, folder / CURVES)
    if not examples:
        log.warning("the card shows no detections, since no image was given")
    if dataset is None and run is not None:
        dataset = _dataset_name(run)
    if card.metrics and not dataset:
        log.warning("the card does not say what its metrics are of, since no dataset was named")
    # A copy for readers: the hub counts downloads by this file. Loading reads the card in the weights' header.
    (folder / HUB_CONFIG).write_text(json.dumps(card.to_json(), indent=1), encoding="utf-8")
    text = CardText(repository, license, dataset, tuple(examples), CURVES if curves else None)
    (folder / README).write_text(hub_readme(card, text), encoding="utf-8")
    pictures = [name for example in examples for name in (example.detections, example.attention) if name]
    return (README, HUB_CONFIG, HUB_WEIGHTS, *([CURVES] if curves else []), *pictures)


def _draw_examples(folder: Path, loaded: Loaded, images: Sequence[str | Path]) -> list[Example]:
    """Draw the detections of each image, and the cross-attention of the best in the last decoder layer."""
    if not images:
        return []
    detector = Detector(open_engine(loaded, "cpu", "torch", "auto"), loaded.card)
    examples = []
    for number, source in enumerate(images, start=1):
        image = read_image(source)
        found = detector.detect(image, threshold=THRESHOLD)
        name, attention = f"example-{number}.jpg", None
        draw_detections(image, found, folder / name, classes=detector.classes.names)
        if len(found):
            attention = f"example-{number}-attention.jpg"
            best = found.select([0])
            trace = detector.trace(image, sites="decoder.*.cross")
            map_ = trace.cross_attention(int(best.query_ids[0]), layer=-1)
            draw_detections(image, best, folder / attention, classes=detector.classes.names, attention=map_)
        else:
            log.warning("%s: no detection with a score of at least %g", source, THRESHOLD)
        examples.append(Example(name, attention, len(found)))
    return examples


def _run_of(model: str | Path) -> Path | None:
    """Return the run folder that a path is, or lies in; None where there is none."""
    path = Path(model)
    folder = path if path.is_dir() else path.parent
    return folder if path.exists() and (folder / CONFIG).is_file() else None


def _dataset_name(run: Path) -> str:
    """Return the name of the dataset that a run was evaluated on, without the folders above it."""
    data = RunFolder(run).config().data
    kind, _, rest = (data.val_source or data.source).rpartition(":")
    return kind if "=" in rest or not rest else Path(rest).name  # drawn-dogs:count=... names no folder


def _without_folders(source: str) -> str:
    """Return the source of a model without folders of this machine."""
    begin = "fine-tuned from " if source.startswith("fine-tuned from ") else ""
    path = Path(source.removeprefix(begin))
    return (
        f"{begin}{path.name}"
        if path.is_absolute() or path.suffix in (".safetensors", ".pth", ".pt")
        else source
    )
