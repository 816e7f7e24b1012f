"""A stand-in for the Hugging Face hub on this machine: the requests of `huggingface_hub`, kept in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import close_session, hf_api

TOKEN = "hf_loopback"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """A repository: its files by name."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Hub:
    """What the server holds, and what it was asked."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # large files by SHA-256
    requests: list[str] = field(default_factory=list)
    refuse: int = 0  # status of every request to write


class Handler(BaseHTTPRequestHandler):
    """Answers of the hub."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        path = self._path()
        if path.startswith("api/models/"):
            name, _, rest = self._repository(path.removeprefix("api/models/"))
            repository = self.hub.repositories.get(name)
            if repository is None:
                self._error(404, "Repository not found", "RepoNotFound")
            elif rest.startswith("tree/"):
                self._json([self._entry(repository, file) for file in repository.files])
            else:
                names = [{"rfilename": file} for file in repository.files]
                self._json(
                    {"id": name, "sha": COMMIT, "private": repository.private, "siblings": names, "tags": []}
                )
            return
        if "/resolve/" not in path:
            self._error(404, "no such page")
            return
        name, _, rest = self._repository(path)
        content = self.hub.repositories[name].files[rest.split("/", 2)[2]]
        self._answer(200, content, {"ETag": f'"{_sha256(content)}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path, body = self._path(), self._body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._error(401, "Invalid username or password.")
        elif self.hub.refuse:
            self._error(self.hub.refuse, "no")
        elif path == "api/repos/create":
            asked = json.loads(body)
            name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            known = name in self.hub.repositories
            if not known:
                self.hub.repositories[name] = Repository(
                    bool(asked.get("private")) or asked.get("visibility") == "private"
                )
            self._json({"url": f"{self.hub.address}/{name}"}, 409 if known else 200)
        elif path == "api/validate-yaml":
            assert json.loads(body)["content"].startswith("---\n")
            self._json({"warnings": [], "errors": []})
        elif "/preupload/" in path:
            files = [{**file, "shouldIgnore": False} for file in json.loads(body)["files"]]
            modes = {True: "lfs", False: "regular"}
            big = (".safetensors", ".jpg", ".png")
            self._json(
                {
                    "files": [
                        {
                            "path": f["path"],
                            "uploadMode": modes[f["path"].endswith(big)],
                            "shouldIgnore": False,
                        }
                        for f in files
                    ]
                }
            )
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            answers = [
                {
                    **one,
                    "actions": {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}", "header": {}}},
                }
                for one in objects
            ]
            self._json({"transfer": "basic", "objects": answers})
        else:
            name = self._repository(path.removeprefix("api/models/"))[0]
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.hub.repositories[name].files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.hub.repositories[name].files[value["path"]] = self.hub.objects[value["oid"]]
            self._json({"commitUrl": f"{self.hub.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def do_PUT(self) -> None:
        content = self._body()
        oid = self._path().removeprefix("lfs/")
        assert _sha256(content) == oid
        self.hub.objects[oid] = content
        self._answer(200, b"", {})

    def _path(self) -> str:
        self.hub.requests.append(f"{self.command} {self.path}")
        return unquote(urlsplit(self.path).path).lstrip("/")

    @staticmethod
    def _repository(path: str) -> tuple[str, str, str]:
        owner, name, *rest = path.split("/")
        return f"{owner}/{name.removesuffix('.git')}", name, "/".join(rest)

    @staticmethod
    def _entry(repository: Repository, file: str) -> dict[str, Any]:
        content = repository.files[file]
        return {"type": "file", "path": file, "size": len(content), "oid": _sha256(content)[:40]}

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, tree: object, status: int = 200) -> None:
        self._answer(status, json.dumps(tree).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, message: str, code: str = "") -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self._answer(
            status, json.dumps({"error": message}).encode(), {"Content-Type": "application/json", **headers}
        )

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def hub_on_this_machine(monkeypatch: pytest.MonkeyPatch, cache: str) -> Iterator[Hub]:
    """Serve a hub from a thread; `huggingface_hub` talks to it, with an empty cache, until the end of the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = False  # closing waits for them
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hf_api.api, "endpoint", hub.address)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        close_session()  # its open connections, on which the server's threads wait
        server.shutdown()
        server.server_close()
        thread.join()
