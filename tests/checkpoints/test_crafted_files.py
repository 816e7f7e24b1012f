"""Weights whose file was made to break its reader: an error in little time and memory, and never code that runs."""

from __future__ import annotations

import json
import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from detrscope.checkpoints.load import load_model
from detrscope.core.errors import UserError

MEMORY = 64 << 20  # bytes of Python's own that an error may cost


def header(tree: object, length: int | None = None, behind: bytes = b"") -> bytes:
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + behind


def entry(start: int, end: int, shape: list[int]) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


SAFETENSORS = {
    "longer than the file": header(b"{}", 2**60),
    "of a hundred million bytes": header(b"{" + b" " * 1000, 100_000_001),
    "nested": header(b'{"a":' * 50_000),
    "of a tensor behind the end": header({"a": entry(0, 4 << 40, [1 << 40])}),
    "of a shape that overflows": header({"a": entry(0, 4, [2**62, 2**62])}, behind=b"\0" * 4),
    "of overlapping tensors": header({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, behind=b"\0" * 12),
    "of a gap": header({"a": entry(8, 12, [1])}, behind=b"\0" * 12),
    "of nothing": b"",
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_safetensors_headers_that_lie_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(SAFETENSORS[name])
    tracemalloc.start()
    with pytest.raises(UserError, match=r"a\.safetensors"):
        load_model(path)
    assert tracemalloc.get_traced_memory()[1] < MEMORY
    tracemalloc.stop()


class Touch:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


def plain(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content))


def archived(path: Path, content: object) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr("a/version", "3\n")


def saved(path: Path, content: object) -> None:
    torch.save(content, path)


@pytest.mark.parametrize("write", [plain, archived, saved])
@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.ckpt", "a.bin"])
def test_code_in_a_pickle_does_not_run(
    write: Callable[[Path, object], None], name: str, tmp_path: Path
) -> None:
    path, made = tmp_path / name, tmp_path / "made"
    write(path, {"model": {"a": torch.zeros(1), "b": Touch(made)}})
    with pytest.raises(UserError, match=r"a\.\w+: .*(objects other than tensors|not a readable)"):
        load_model(path)
    assert not made.exists()


def test_an_archive_of_zeros_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        with archive.open("a/data/0", "w", force_zip64=True) as file:
            for _ in range(300):
                file.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    with pytest.raises(UserError, match=r"a\.pth: .*bytes that unpack to"):
        load_model(path)
    assert tracemalloc.get_traced_memory()[1] < MEMORY
    tracemalloc.stop()
