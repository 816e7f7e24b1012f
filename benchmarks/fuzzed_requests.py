"""Random requests to the live page: pictures whole and damaged, edits near the grammar, forms, headers, methods."""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

WORDS = (
    *("decoder.*.cross", "*", "encoder.0.self", "decoder.9.cross", "", "\0", "☃"),
    *(
        "heads",
        "queries",
        "keys",
        "points",
        "levels",
        "hide",
        "favour",
        "region",
        "swap",
        "value",
        "x",
        ":",
        "+",
    ),
    *("0", "1", "2,3", "0-7", "-1", "99999999999999999999", "1e308", "nan", "inf", "0.5", "5,5,40,30"),
    *("0,0,0,0", "9,9,1,1", "1e9,0,2e9,1", "<img src=x onerror=alert(1)>", "../../etc/passwd"),
)
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")
PATHS = ("/", "/api/trace", "/api/snapshot", "/api", "/..%2f..%2fetc/passwd", "/api/trace/", "/%00", "/docs")


@dataclass(frozen=True)
class FuzzedRequest:
    """One request."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    content: bytes | None = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of a test client's `request`."""
        body = (
            {"content": self.content}
            if self.content is not None
            else {"data": self.data or None, "files": self.files or None}
        )
        return {
            "method": self.method,
            "url": self.path,
            "headers": self.headers,
            "params": self.params,
            **body,
        }


def random_picture(generator: random.Random) -> bytes:
    """Return a small picture file: whole, cut short, with changed bytes, not one at all, or one that would be huge."""
    kind = generator.random()
    if kind < 0.1:
        return generator.randbytes(generator.randrange(400))
    if kind < 0.13:  # one colour, but very many pixels
        side = generator.choice([8_000, 12_000])
        buffer = io.BytesIO()
        Image.new("1", (side, side)).save(buffer, "PNG")
        return buffer.getvalue()
    height, width = generator.choice([(1, 1), (1, 200), (40, 60), (60, 40), (64, 64)])
    mode, depth = generator.choice([("L", ()), ("RGB", (3,)), ("RGBA", (4,))])
    numbers = np.random.default_rng(generator.randrange(2**32)).integers(
        0, 256, (height, width, *depth), np.uint8
    )
    buffer = io.BytesIO()
    picture = Image.fromarray(numbers, mode)
    suffix = generator.choice(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
    picture.convert("RGB" if suffix == "JPEG" else mode).save(buffer, suffix)
    data = bytearray(buffer.getvalue())
    if generator.random() < 0.4:
        for _ in range(generator.randrange(1, 9)):
            data[generator.randrange(len(data))] = generator.randrange(256)
    if generator.random() < 0.3:
        del data[generator.randrange(len(data)) :]
    return bytes(data)


def random_edits(generator: random.Random) -> str:
    """Return a field of edits: lists of texts near the grammar, or other JSON, or none."""
    if generator.random() < 0.3:
        return generator.choice(
            ["[]", '["*: x0.5"]', '["decoder.*.cross: heads 1 x0"]', '["swap decoder.0.cross"]']
        )
    if generator.random() < 0.2:
        return generator.choice(["", "{", "null", "[null]", "[[]]", "{}", "[1]", '"x"', "[" * 3000, "1e999"])
    texts = []
    for _ in range(generator.randrange(4)):
        words = [generator.choice(WORDS) for _ in range(generator.randrange(1, 7))]
        if generator.random() < 0.5:
            words = [
                f"{words[0]}:",
                *words[1:],
                generator.choice(["x0", "x2", "hide region 5,5,30,30", "+1"]),
            ]
        texts.append(" ".join(words))
    return json.dumps(texts)


def random_request(generator: random.Random, token: str, names: list[str]) -> FuzzedRequest:
    """Return a random request; most have the right token and the form of a real one."""
    headers = {} if generator.random() < 0.05 else {"X-Detrscope-Token": token}
    if generator.random() < 0.03:
        headers |= {generator.choice(["Host", "Origin", "X-Detrscope-Token"]): "http://elsewhere"}
    kind = generator.random()
    if kind < 0.1:
        method, path = generator.choice(METHODS), generator.choice(PATHS)
        return FuzzedRequest(method, path, headers, content=generator.randbytes(generator.randrange(200)))
    if kind < 0.25:
        parts = [
            str(generator.choice([0, 1, 2, 3, -1, 10**6, 10**20, "x"])) for _ in range(generator.randrange(5))
        ]
        return FuzzedRequest("GET", "/api/snapshot", headers, {"name": " ".join(parts)})
    if kind < 0.3:
        boundary = {"Content-Type": "multipart/form-data; boundary=x"}
        body = generator.randbytes(generator.randrange(300))
        part = b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n' + body
        return FuzzedRequest("POST", "/api/trace", headers | boundary, content=part)
    data: dict[str, str] = {"edits": random_edits(generator)}
    files: dict[str, tuple[str, bytes]] = {}
    for name, file in (("name", "file"), ("other_name", "other_file")):
        which = generator.random()
        if which < (0.45 if name == "name" else 0.1):
            files[file] = (
                generator.choice(["a.png", "../../etc/passwd", "\0", "ü"]),
                random_picture(generator),
            )
        elif which < 0.9:
            wrong = generator.random() < 0.1
            data[name] = generator.choice(["x", "../x", "\0", "a" * 3000] if wrong else names)
    return FuzzedRequest("POST", "/api/trace", headers, data=data, files=files)
