"""MkDocs hook: pages and files that lie outside docs/ become part of the site, and links to them are followed.

In the repository the pages link as GitHub reads them (`../examples/server.py`, `docs/see.md`). The site has the same
files under the same names, so only the folder in front of a link changes. Nothing leads to another host.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md")
OUTSIDE = re.compile(r"(?<=\]\()\.\./(?P<path>[^)#\s]+)")  # in docs/: a link to a file of the repository
INSIDE = re.compile(r"(?<=\]\()docs/")  # in a page of the repository: a link to a page of docs/


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the repository, and every file that a page of docs/ links to outside of it."""
    linked = {
        match["path"]
        for page in files.documentation_pages()
        for match in OUTSIDE.finditer(page.content_string)
        if (ROOT / match["path"]).is_file()  # else the link stays as it is, and is warned about
    }
    for name in sorted({*PAGES, *linked}):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links between docs/ and the rest of the repository."""
    if page.file.src_uri in PAGES:
        return INSIDE.sub("", markdown)
    return OUTSIDE.sub(
        lambda link: link["path"] if files.get_file_from_path(link["path"]) else link[0], markdown
    )
