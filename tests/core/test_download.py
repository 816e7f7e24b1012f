"""Downloads: within limits of size and time, every failure one line, no secret repeated."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from detrscope.core.download import download, shown_url, url_path
from detrscope.core.errors import UserError

OK = b"HTTP/1.1 200 OK\r\n"
Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server on loopback that gives the same bytes to everybody, in parts."""
    sockets = []

    def start(*parts: bytes, pause: float = 0.0) -> str:
        listening = socket.create_server(("127.0.0.1", 0))
        sockets.append(listening)

        def answer() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                    with client:
                        client.recv(1 << 16)
                        for part in parts:
                            client.sendall(part)
                            time.sleep(pause)
                except OSError:
                    return

        threading.Thread(target=answer, daemon=True).start()
        return f"http://someone:s3cret@127.0.0.1:{listening.getsockname()[1]}/a b.jpg?token=s3cret"

    yield start
    for one in sockets:
        one.close()


def got(url: str, **limits: float) -> bytes:
    return b"".join(download(url, limit=1000, answer_timeout=2, **limits))


def test_complete_responses_are_returned(serve: Serve) -> None:
    assert got(serve(OK + b"Content-Length: 5\r\n\r\nhello")) == b"hello"
    assert got(serve(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n")) == b"hello"
    assert got(serve(OK + b"\r\n", b"hello")) == b"hello"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (OK + b"Content-Length: 50\r\n\r\nhello", "ended before the download was complete"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "not valid HTTP"),
        (OK + b"".join(b"X-%d: 1\r\n" % i for i in range(500)) + b"\r\n", "not valid HTTP"),
        (OK + b"X: " + b"a" * 100_000 + b"\r\n\r\n", "not valid HTTP"),
        (b"nonsense\r\n\r\n", "not valid HTTP"),
        (b"", "not valid HTTP"),
        (OK + b"Content-Length: 99999999999\r\n\r\nhello", "the limit is 1,000 bytes"),
        (OK + b"\r\n" + b"a" * 2000, "larger than the limit"),
        (OK + b"Content-Encoding: gzip\r\n\r\nhello", "compressed"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "answered 404 Not Found"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://a:s3cret@b/c\r\n\r\n", "redirected to 'ftp'"),
        (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/hosts\r\n\r\n", "redirected to 'file'"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n", "not a valid URL"),
        (b"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n", "more than 10 redirects"),
    ],
)
def test_bad_responses_are_one_line_errors(serve: Serve, answer: bytes, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        got(serve(answer))
    assert "s3cret" not in str(error.value) and "\n" not in str(error.value)


def test_slow_responses_time_out(serve: Serve) -> None:
    dripping = serve(OK + b"Content-Length: 50\r\n\r\n", *[b"x"] * 50, pause=0.1)
    with pytest.raises(UserError, match=r"not complete after 0\.5 seconds"):
        got(dripping, whole_timeout=0.5)
    with pytest.raises(UserError, match=r"no response within 0\.2 seconds"):
        list(download(serve(b"", pause=1.0), limit=10, answer_timeout=0.2))


@pytest.mark.parametrize(
    "url",
    [
        *("http://[", "http://[::1:9/x", "http://user:s3cret@[/x", "http:///x", "https://", "http://a b/c"),
        *("http://h:99999/", "http://h:abc/", "http://.", "http://" + "a" * 300 + ".com/", "http://\ud800/"),
    ],
)
def test_bad_urls_are_one_line_errors(url: str) -> None:
    with pytest.raises(UserError, match="not a valid URL") as error:
        got(url)
    assert "s3cret" not in str(error.value)
    str(error.value).encode()


@pytest.mark.parametrize("url", ["http://[::1]:9/x", "http://127.0.0.1:9/\n\x00"])
def test_refused_connections_are_one_line_errors(url: str) -> None:
    with pytest.raises(UserError, match=r"cannot be downloaded \(.+\)$"):
        got(url)


@pytest.mark.parametrize("proxy", ["http://a:s3cret@127.0.0.1:9", "nonsense", "http://[", "ftp://x:1"])
def test_bad_proxy_is_named(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy)
    with pytest.raises(UserError, match="proxy") as error:
        got("http://example.invalid/x")
    assert "s3cret" not in str(error.value)


def test_shown_urls_have_no_secrets() -> None:
    assert shown_url("https://me:pw@host:80/a/b.jpg?key=1#x") == "https://host:80/a/b.jpg?..."
    assert shown_url("http://me:pw@[") == "http://["
    assert shown_url("http://host/\x1b[31m\n") == "http://host/?[31m"


def test_url_path_is_unquoted() -> None:
    assert url_path("http://host/a%20b.jpg?x=1#y") == "/a b.jpg"
    assert url_path("http://[") == url_path("http://host") == ""
