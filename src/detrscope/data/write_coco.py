"""Writes datasets as a folder in COCO's layout: whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Literal

from detrscope.console import progress
from detrscope.core.errors import UserError
from detrscope.data.dataset import DetectionDataset, ImageInfo
from detrscope.data.image_files import exists, name_key
from detrscope.data.image_reader import read_size

Files = Literal["copy", "hardlink", "symlink"]


def write_coco(splits: Mapping[str, DetectionDataset], out: Path, files: Files = "copy") -> None:
    """`annotations/instances_SPLIT.json` and `SPLIT/` with the images, for each split.

    Args:
        splits: datasets by the name of their split.
        out: the folder to make; must not exist, or be empty.
        files: copy the images, or link to them.

    Raises:
        UserError: `out` is in use, an image is missing, or cannot be linked.
    """
    with atomic_folder(out) as folder, progress() as bar:
        (folder / "annotations").mkdir()
        for split, dataset in splits.items():
            (folder / split).mkdir()
            tree = dataset.coco_json()
            names = _names(dataset.images)
            task = bar.add_task(f"{files} {split}", total=len(dataset))
            for image, name, row in zip(dataset.images, names, tree["images"], strict=True):
                row["file_name"] = name
                _place(image, folder / split / name, files)
                bar.advance(task)
            (folder / "annotations" / f"instances_{split}.json").write_bytes(_as_json(tree))


def _as_json(tree: dict[str, Any]) -> bytes:
    try:
        return json.dumps(tree, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a pair of surrogates in a name: UTF-8 cannot have it, an escape can
        return json.dumps(tree).encode()


def _names(images: Sequence[ImageInfo]) -> list[str]:
    """A file name for each image, its own where that is free: unique on file systems that ignore case, too."""
    taken: set[str] = set()
    own = {name_key(_written(image.path.name)) for image in images}  # no invented name may be one of these
    names = []
    for image in images:
        name = _written(image.path.name)
        if name_key(name) in taken:
            tries = (f"{image.id}{'_' * n}{name}" for n in count(1))
            name = next(one for one in tries if name_key(one) not in own and name_key(one) not in taken)
        taken.add(name_key(name))
        names.append(name)
    return names


def _written(name: str) -> str:
    """The name as a text: bytes that are no UTF-8, which Python keeps as surrogates, become underscores."""
    return "".join("_" if "\ud800" <= c <= "\udfff" else c for c in name)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, renamed to it when the block succeeds, removed when it does not.

    Raises:
        UserError: `path` exists and is not an empty folder.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: already there; choose another --out, or delete it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.is_dir():
            path.rmdir()
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _place(image: ImageInfo, target: Path, files: Files) -> None:
    if exists(image.path):
        read_size(image.path)  # refuses what is no image, whatever its name
    try:
        if files == "symlink":
            target.symlink_to(image.path.resolve(strict=True))
        elif files == "hardlink":
            os.link(image.path.resolve(strict=True), target)
        else:
            shutil.copyfile(image.path, target)
    except FileNotFoundError:
        raise UserError(f"{image.path}: no such image file") from None
    except OSError as error:
        hint = "" if files == "copy" else "; use --files copy"
        raise UserError(
            f"{image.path}: cannot {files} it to {target.parent} ({error.strerror}){hint}"
        ) from None
