"""Records of an offline run of Weights & Biases: a file in LevelDB's log format, behind a header of seven bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

BLOCK, HEAD = 32_768, 7  # bytes of a block, and of the head of a chunk: checksum, length, kind
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def wandb_file_records(path: Path) -> Iterator[bytes]:
    """Yield the serialised records of a .wandb file."""
    data, at, whole = path.read_bytes(), HEAD, b""
    assert data[:4] == b":W&B"
    while at + HEAD <= len(data):
        if BLOCK - at % BLOCK < HEAD:  # what is left of a block is too small for a chunk
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        assert kind in (FULL, FIRST, MIDDLE, LAST), f"chunk of kind {kind} at {at}"
        whole += data[at + HEAD : at + HEAD + length]
        at += HEAD + length
        if kind in (FULL, LAST):
            yield whole
            whole = b""
