"""The page of the demo shows texts and names as they are, and links to files of any name."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from detrscope.views.demo_page import DemoPage


class Reader(HTMLParser):
    """Collects what a browser would load and show."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")], "a script"
        self.addresses += [unquote(value or "") for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        'a" onerror="alert(1)',
        "a' onload='x",
        "50%25#1?.png",
        "\u72ac.png",
        "a&lt;b",
        "\x1b[31m",
    ],
)
def test_names_are_escaped_in_html(name: str) -> None:
    page = DemoPage([name], [name, name], [f"seen/{name}"], [name], name, name, {}, {}, 1, 1.0).html()
    page.encode("utf-8")
    assert "Open the page" not in page
    reader = Reader()
    reader.feed(page)
    assert reader.tags.isdisjoint({"script", "iframe", "object"}) and "\x1b" not in page
    slashed = name.replace("//", "/")
    assert reader.addresses.count(slashed) == 5 and f"seen/{slashed}" in reader.addresses
    assert name.replace("\x1b", r"\x1b") in reader.text


def test_the_report_is_linked() -> None:
    page = DemoPage(["a"], ["a", "b"], ["seen/c"], [], "p", "q", {}, {}, 1, 1.0, "seen/c/re#port.html").html()
    reader = Reader()
    reader.feed(page)
    assert "seen/c/re#port.html" in reader.addresses and "Open the page of one of them" in reader.text
