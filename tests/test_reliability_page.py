"""The tests that docs/reliability.md names as proofs exist, and every case has one."""

from __future__ import annotations

import re

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text()
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_named_tests_exist() -> None:
    named = NAMED.findall(PAGE)
    assert len(named) > 50
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).is_file()
        or not re.search(rf"^\s*def {name}\(", (ROOT / path).read_text(), re.MULTILINE)
    ]
    assert missing == []


def test_every_case_of_a_user_has_a_test() -> None:
    table = PAGE.partition("### Cases of users")[2].partition("\n\nInputs")[0]
    rows = [line.split("|") for line in table.splitlines() if re.match(r"\| \d", line)]
    assert [int(row[1]) for row in rows] == [*range(1, 16)]
    assert all(NAMED.search(row[3]) for row in rows)
