"""A second of the fuzzer's mutations on every reader; `benchmarks/fuzz_readers.py` is the long form, by atheris."""

from __future__ import annotations

import random

import pytest
from benchmarks import fuzz_corpus
from benchmarks.fuzz_mutators import mutate_json, mutate_json_lines, mutate_text, mutate_xml
from benchmarks.fuzz_readers import fuzz_shortly
from benchmarks.fuzz_targets import TARGETS, Target

from detrscope.core.errors import UserError

SECONDS = 1.0
# Pillow warns of what it could not read in metadata; libraries below warn of damaged files in their own words.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_are_read_or_end_in_a_user_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETRSCOPE_MAX_PIXELS", str(1 << 20))
    assert fuzz_shortly(name, SECONDS) > len(TARGETS[name].seeds())


@pytest.mark.parametrize(
    "name", sorted({*TARGETS} - {"image", "pickle", "safetensors", "trace", "bare", "yolo"})
)
def test_some_seed_of_each_reader_is_valid(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, read = tmp_path_factory.mktemp(name), 0
    TARGETS[name].prepare(folder)
    for seed in TARGETS[name].seeds():
        try:
            TARGETS[name].run(seed, folder)
        except UserError:
            continue
        read += 1
    assert read


def test_a_reader_with_a_bug_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes, folder: object) -> None:
        if b"1e999" in data:
            raise ZeroDivisionError

    monkeypatch.setitem(TARGETS, "broken", Target(broken, fuzz_corpus.coco, mutate_json, 1))
    with pytest.raises(ZeroDivisionError) as error:
        fuzz_shortly("broken", 20.0)
    assert error.value.__notes__[0].startswith("input of broken: b'")


@pytest.mark.parametrize(
    ("mutate", "seeds"),
    [
        (mutate_json, fuzz_corpus.coco),
        (mutate_xml, fuzz_corpus.cvat),
        (mutate_json_lines, fuzz_corpus.crowdhuman),
        (mutate_text, lambda: [fuzz_corpus.YOLO_LABELS]),
    ],
)
def test_mutations_change_the_input_and_depend_on_the_seed_only(mutate, seeds) -> None:  # type: ignore[no-untyped-def]
    (first, *_) = seeds()
    changed = [mutate(first, random.Random(seed)) for seed in range(50)]
    assert changed == [mutate(first, random.Random(seed)) for seed in range(50)]
    assert sum(data is not None and data != first for data in changed) > 30
    assert mutate(b"\xff\xfe{", random.Random(0)) is None
