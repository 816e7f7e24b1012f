"""The page as one HTML file: style, modules and data inside, a content security policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

MODULES = (
    "payload",
    "geometry",
    "attention",
    "colours",
    "predictions",
    "state",
    "curves",
    "run",
    "masks",
    "stage",
    "scene",
    "assignment",
    "changes",
    "edits",
    "edit_inputs",
    "resize",
    "model",
    "sources",
    "takeaway",
    "main",
)
IMPORT = re.compile(r'^import \{[^}]*\} from "\./[\w.]+";\n', re.MULTILINE)
EXPORT = re.compile(r"^export \{[^}]*\};\n", re.MULTILINE)
PLACE = re.compile(r"\{\{(\w+)\}\}")


def page_html(
    title: str,
    payloads: Sequence[tuple[str, str]],
    info: Mapping[str, Any],
    *,
    connect: str = "'none'",
    runs: bool = False,
) -> str:
    """Return the page.

    Args:
        title: title until something is shown.
        payloads: name and base64 data of each image in the page.
        info: what the page's script reads first: the model's name, or the server's address.
        connect: sources that the page may connect to, as a content security policy names them.
        runs: whether a model runs in the page: modules beside it are loaded, and WebAssembly is compiled.
    """
    script, style = page_script(), _read("page.css")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashed(script)}" + (" 'self' blob: 'wasm-unsafe-eval'" if runs else ""),
            *(("worker-src 'self' blob:",) if runs else ()),
            f"style-src {_hashed(style)}",
            "img-src blob: data:",
            f"connect-src {connect}",
            "form-action 'none'",
            "base-uri 'none'",
        )
    )
    blocks = [f'<script type="application/json" id="page-info">{_json(info)}</script>']
    blocks += [
        f'<script type="text/x-payload" data-name="{escape(name)}">{data}</script>' for name, data in payloads
    ]
    parts = {
        "title": escape(title),
        "policy": escape(policy),
        "style": style,
        "payload": "\n".join(blocks),
        "script": script,
    }
    return PLACE.sub(lambda match: parts[match[1]], _read("page.html"))


def page_script() -> str:
    """Return all modules as one, in the order in which they import each other."""
    return "\n".join(EXPORT.sub("", IMPORT.sub("", _read(f"{name}.js"))) for name in MODULES)


def _read(name: str) -> str:
    return (resources.files("detrscope.explorer") / "page" / name).read_text(encoding="utf-8")


def _json(tree: Mapping[str, Any]) -> str:
    """Return JSON that may stand in a script element."""
    return json.dumps(tree).replace("<", "\\u003c")


def _hashed(text: str) -> str:
    """Return a source of a content security policy that allows just this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
