"""Write datasets as a folder in COCO's layout: whole or not at all."""

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
from detrscope.data.image_files import exists, image_name_key
from detrscope.data.image_header import read_size

Files = Literal["copy", "hardlink", "symlink"]


def write_coco(splits: Mapping[str, DetectionDataset], out: Path, files: Files = "copy") -> None:
    """Write `annotations/instances_SPLIT.json` and `SPLIT/` with the images, for each split.

    Args:
        splits: Datasets by the name of their split.
        out: Folder to make; must not exist, or be empty.
        files: Whether to copy the images or link to them.

    Raises:
        UserError: `out` is in use, or an image is missing or cannot be linked.
    """
    with atomic_new_folder(out) as folder, progress() as bar:
        (folder / "annotations").mkdir()
        for split, dataset in splits.items():
            (folder / split).mkdir()
            tree = dataset.coco_json()
            names = _names(dataset.images)
            task = bar.add_task(f"{files} {split}", total=len(dataset))
            for image, name, row in zip(dataset.images, names, tree["images"], strict=True):
                row["file_name"] = name
                _copy_or_link(image, folder / split / name, files)
                bar.advance(task)
            (folder / "annotations" / f"instances_{split}.json").write_bytes(_as_json(tree))


def _as_json(tree: dict[str, Any]) -> bytes:
    try:
        return json.dumps(tree, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate in a name: not valid in UTF-8, valid as an escape
        return json.dumps(tree).encode()


def _names(images: Sequence[ImageInfo]) -> list[str]:
    """Return a file name for each image, its own where that is free; unique on file systems that ignore case, too."""
    taken: set[str] = set()
    own = {
        image_name_key(_valid_text(image.path.name)) for image in images
    }  # no new name may be one of these
    names = []
    for image in images:
        name = _valid_text(image.path.name)
        if image_name_key(name) in taken:
            candidates = (f"{image.id}{'_' * n}{name}" for n in count(1))
            name = next(
                c for c in candidates if image_name_key(c) not in own and image_name_key(c) not in taken
            )
        taken.add(image_name_key(name))
        names.append(name)
    return names


def _valid_text(name: str) -> str:
    """Return the name with underscores for bytes that are not UTF-8, which Python keeps as surrogates."""
    return "".join("_" if "\ud800" <= c <= "\udfff" else c for c in name)


def check_new_folder(path: Path) -> None:
    """Refuse a folder that holds something, before any work is done for it.

    Raises:
        UserError: `path` exists and is not an empty folder.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: already exists; choose another folder, or delete it first")


@contextmanager
def atomic_new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, renamed to it when the block succeeds, else removed.

    Raises:
        UserError: `path` exists and is not an empty folder.
    """
    check_new_folder(path)
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


def _copy_or_link(image: ImageInfo, target: Path, files: Files) -> None:
    if exists(image.path):
        read_size(image.path)  # refuses a file that is not an image, whatever its name
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
        hint = "" if files == "copy" else "; copy the files instead (files=copy)"
        reason = f"cannot {files} it to {target.parent} ({error.strerror}){hint}"
        raise UserError(f"{image.path}: {reason}") from None
