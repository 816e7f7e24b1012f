"""The page's modules: types by `tsc --checkJs`, and how they are put together."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from detrscope.explorer.bundle import MODULES, page_html, page_script
from tests.conftest import ROOT

PAGE = ROOT / "src" / "detrscope" / "explorer" / "page"


def test_the_modules_types_are_right() -> None:
    tsc = shutil.which("tsc")
    if tsc is None:
        pytest.skip("no tsc (npm install typescript) on this machine")
    ran = subprocess.run(
        [tsc, "-p", str(Path(__file__).parent / "tsconfig.json")], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout


def test_every_module_is_in_the_page_after_what_it_imports() -> None:
    assert sorted(MODULES) == sorted(path.stem for path in PAGE.glob("*.js"))
    for number, name in enumerate(MODULES):
        imported = re.findall(
            r'^import .* from "\./(\w+)\.js";$', (PAGE / f"{name}.js").read_text(), re.MULTILINE
        )
        assert set(imported) <= set(MODULES[:number]), name


def test_no_name_is_given_twice_at_the_top_of_the_modules() -> None:
    script = page_script()
    names = re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", script, re.MULTILINE)
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)
    assert not re.search(r"^(import|export) ", script, re.MULTILINE)


def test_the_page_allows_nothing_but_itself() -> None:
    html = page_html("<title>", [("<name>", "AAAA")], {"model": "</script>"})
    assert "<title>&lt;title&gt;</title>" in html and 'data-name="&lt;name&gt;"' in html
    assert "\\u003c/script>" in html
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert "default-src &#x27;none&#x27;" in policy and "connect-src &#x27;none&#x27;" in policy
    assert "unsafe-inline" not in policy and "unsafe-eval" not in policy
    assert "https://" not in html and "http://" not in html
