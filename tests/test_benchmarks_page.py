"""`python -m benchmarks.all` rewrites its blocks of a page and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.all import RUNS, Run, main, replace_block

from tests.conftest import ROOT

BEGIN, END = "<!-- benchmark one: begin, written by benchmarks/all.py -->", "<!-- benchmark one: end -->"
PAGE = f"# Page\n\nProse.\n\n{BEGIN}\nold\n{END}\n\nMore.\n"
PRINTS = Run("one", """python -c 'print("machine | table \\\\1")'""")
FAILS = Run("two", """python -c 'raise SystemExit("no such thing")'""")
CLONED = Run("three", "python -c pass DIR")


def test_a_block_is_replaced_and_prose_stays() -> None:
    page = replace_block(PAGE, "one", "new \\1")
    assert page == PAGE.replace("old", "new \\1")
    assert replace_block(page, "one", "new \\1") == page


def test_a_block_that_is_missing_is_added_at_the_end() -> None:
    page = replace_block(replace_block(PAGE, "two", "2"), "three", "3")
    assert page.startswith(PAGE.rstrip()) and page.count("## Tables of") == 1
    assert page.index("benchmark two: begin") < page.index("benchmark three: begin")


def test_blocks_name_their_command_and_failures_keep_the_old(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = tmp_path / "page.md"
    docs.write_text(PAGE)
    assert main(["--docs", str(docs)], [PRINTS, FAILS, CLONED]) == 1
    page = docs.read_text()
    start, _, rest = page.partition(f"```\n$ {PRINTS.command}\n")
    machine, *lines = rest.splitlines()
    assert "torch's kernels" in machine and lines[:2] == ["machine | table \\1", "```"]
    assert "old" not in page and start.endswith(f"{BEGIN}\n")
    assert "benchmark two" not in page and "benchmark three" not in page
    error = capsys.readouterr().err
    assert "two: failed (no such thing); its table stays as it was" in error
    assert "three: left out; it needs --clone DIR" in error


def test_avx2_tables_are_their_own_and_say_so(tmp_path: Path) -> None:
    docs = tmp_path / "page.md"
    docs.write_text(PAGE)
    shows = Run("one", """python -c 'import os; print(os.environ["ATEN_CPU_CAPABILITY"])'""")
    assert main(["--docs", str(docs), "--avx2"], [shows]) == 0
    page = docs.read_text()
    assert "old" in page and "benchmark one avx2: begin" in page
    assert "$ ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python" in page and "\navx2\n" in page
    assert "torch's kernels AVX2, oneDNN AVX2" in page


def test_only_runs_known_names(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "nothing"], [PRINTS])
    docs = tmp_path / "page.md"
    docs.write_text(PAGE)
    assert main(["--docs", str(docs), "--only", "one"], [PRINTS, FAILS]) == 0


def test_every_run_exists_and_names_are_unique() -> None:
    assert len({run.name for run in RUNS}) == len(RUNS)
    for run in RUNS:
        module = [word for word in run.command.split() if word.startswith("benchmarks.")]
        assert all((ROOT / f"{name.replace('.', '/')}.py").is_file() for name in module)
        assert module or run.command.startswith("detrscope benchmark")
