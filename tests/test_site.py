"""The site of the docs builds without a warning, calls no other host, and its links work in the repository too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

import detrscope as ds
from tests.conftest import ROOT
from tests.support.doc_blocks import BLOCKS

DOCS = ROOT / "docs"
PAGES = (
    *(ROOT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CHANGELOG", "CONTRIBUTING")),
    *DOCS.rglob("*.md"),
)
LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(([^)\s]+)\)")
INLINE_CODE = re.compile(r"`[^`\n]*`")
HEADING = re.compile(r"^#+ +(.+?)\s*$", re.MULTILINE)
ELSEWHERE = re.compile(r"https?://|mailto:")


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a copy of the project, strictly."""
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        str(source / "mkdocs.yml"),
    ]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        [*command, "--site-dir", str(out)], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; building it without a warning is the first test."""
    out = tmp_path_factory.mktemp("site")
    result = build(ROOT, out)
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stderr and "ERROR" not in result.stderr
    return out


class Resources(HTMLParser):
    """Addresses that a browser loads by itself, and the ids of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids.add(values.get("id", ""))
        if tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(values.get("href", ""))
        elif tag in ("script", "img", "iframe", "source", "video"):
            self.loaded.append(values.get("src", ""))


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(list(DOCS.glob("*.md")))
    foreign = {
        f"{page.relative_to(site)}: {url}"
        for page in pages
        for url in Resources(page).loaded
        if ELSEWHERE.match(url) or url.startswith("//")
    }
    assert not foreign
    for sheet in site.rglob("*.css"):
        assert not re.search(
            r"(?:url\(|@import\s*)['\"]?(?:https?:)?//", sheet.read_text(encoding="utf-8")
        ), sheet
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    assert 'class="mermaid"' not in text, "mermaid is loaded from another host"
    assert 'class="md-source"' not in text, "a repository's stars are asked for at another host"


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    ids = Resources(site / "api" / "index.html").ids
    assert not [name for name in ds.__all__ if f"detrscope.{name}" not in ids]
    named = re.findall(r"^::: detrscope\.(\w+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == ds.__all__


def test_files_that_pages_link_to_are_in_the_site(site: Path) -> None:
    page = (site / "deploy" / "index.html").read_text(encoding="utf-8")
    assert 'href="../examples/server.py"' in page
    assert (site / "examples" / "server.py").read_bytes() == (ROOT / "examples" / "server.py").read_bytes()


def in_nav(tree: Any) -> Iterator[str]:
    """Yield the pages of a nav."""
    if isinstance(tree, str):
        yield tree
    else:
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from in_nav(part)


def test_every_page_is_in_the_nav_once() -> None:
    class Loader(yaml.SafeLoader):
        """YAML whose `!ENV` is not looked up."""

    Loader.add_constructor("!ENV", lambda loader, node: None)
    nav = list(in_nav(yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"]))
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert len(nav) == len(set(nav))
    assert set(nav) - {"ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"} == pages


def prose(page: Path) -> str:
    """Return the text of a page without blocks of code."""
    return BLOCKS.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    found: set[str] = set()
    for heading in HEADING.findall(prose(page)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 0
        while (anchor := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(anchor)
    return found


def broken_links(page: Path) -> list[str]:
    """Return the links of a page that lead nowhere when the repository is read on GitHub."""
    wrong = []
    for link in LINK.findall(INLINE_CODE.sub("", prose(page))):
        if ELSEWHERE.match(link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(f"{page.name}: {link}")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve_in_the_repository(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A head: `it`\n[a](#a-head-it) [b](#nothing) [c](none.md) ![d](none.png)\n", encoding="utf-8"
    )
    assert broken_links(page) == ["page.md: #nothing", "page.md: none.md", "page.md: none.png"]


def test_every_image_is_used() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    unused = [path.name for path in (DOCS / "images").iterdir() if f"images/{path.name}" not in text]
    assert unused == []


def test_no_code_has_an_escaped_bar() -> None:
    r"""In a table GitHub shows `a\|b` as a|b, the site as a\|b: alternatives are written one by one."""
    wrong = [page.name for page in PAGES for code in INLINE_CODE.findall(prose(page)) if "\\|" in code]
    assert wrong == []
