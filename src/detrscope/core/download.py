"""Download files over http(s) within limits of size and time; every failure is one line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit
from urllib.request import getproxies

from detrscope.core.errors import UserError

if TYPE_CHECKING:
    import requests

SCHEMES = ("http", "https")
ANSWER_TIMEOUT = 30.0  # seconds without a byte
WHOLE_TIMEOUT = 3600.0  # seconds for everything
REDIRECTS = 10
BLOCK = 1 << 16
MEBI = 1 << 20
MAX_SHOWN_LENGTH = 300  # characters of an address

Progress = Callable[
    [int, int | None], None
]  # bytes of this block, and of the whole file where the server gives it


def is_url(text: object) -> bool:
    """Return whether this is an http(s) URL."""
    return isinstance(text, str) and text.lower().startswith(("http://", "https://"))


def shown_url(url: str) -> str:
    """Return a URL for messages and results, without user name, password, query and fragment, which may be secret."""
    try:
        parts = urlsplit(url)
        query = "..." if parts.query else ""
        shown = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))
    except ValueError:  # such as "http://[", which has no host
        scheme, _, rest = url.partition("://")
        shown = f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
    return "".join(letter if letter.isprintable() else "?" for letter in shown)[:MAX_SHOWN_LENGTH]


def url_path(url: str) -> str:
    """Return the unquoted path of a URL; empty where there is none or the URL is not valid."""
    try:
        return unquote(urlsplit(url).path)
    except ValueError:
        return ""


def download(
    url: str,
    *,
    limit: int,
    answer_timeout: float = ANSWER_TIMEOUT,
    whole_timeout: float = WHOLE_TIMEOUT,
    progress: Progress | None = None,
) -> Iterator[bytes]:
    """Yield the content of a URL block by block, checked to be complete.

    Redirects are followed to http(s) URLs only. Proxies of the environment are used.

    Args:
        url: http(s) URL; spaces and non-ASCII letters are quoted.
        limit: most bytes to read.
        answer_timeout: seconds without a byte before giving up.
        whole_timeout: seconds for the whole download.
        progress: called with each block.

    Raises:
        UserError: a bad URL, no response, a status other than 200, a download that is incomplete, too large or too
            slow. User name, password and query of the URL are not repeated.
    """
    import requests
    import urllib3

    name, end = shown_url(url), time.monotonic() + whole_timeout
    try:
        with requests.Session() as session:
            answer = _answer(session, url, answer_timeout)
            with answer:
                yield from _blocks(answer, name, limit, end, whole_timeout, progress)
    except UserError:
        raise
    except (
        *(requests.RequestException, urllib3.exceptions.HTTPError, HTTPException),
        *(OSError, ValueError),  # not wrapped by requests: sockets, encodings, odd URLs
    ) as error:
        raise UserError(f"{name}: cannot be downloaded ({_reason(error, answer_timeout)})") from None


def _answer(session: requests.Session, url: str, timeout: float) -> requests.Response:
    """Return the final response. Redirects are followed one by one, so that each URL is checked first."""
    for _ in range(REDIRECTS):
        if urlsplit(url).scheme.lower() not in SCHEMES:
            scheme = urlsplit(url).scheme
            raise UserError(f"{shown_url(url)}: redirected to '{scheme}', expected an http(s) URL")
        answer = session.get(
            url,
            headers={"User-Agent": "detrscope", "Accept-Encoding": "identity"},
            timeout=timeout,
            stream=True,
            allow_redirects=False,
        )
        if not answer.is_redirect:
            return answer
        url = urljoin(url, answer.headers["Location"])
        answer.close()
    raise UserError(f"{shown_url(url)}: more than {REDIRECTS} redirects")


def _blocks(
    answer: requests.Response,
    name: str,
    limit: int,
    end: float,
    whole_timeout: float,
    progress: Progress | None,
) -> Iterator[bytes]:
    if answer.status_code != 200:
        raise UserError(f"{name}: the server answered {answer.status_code} {answer.reason or ''}".rstrip())
    length = answer.headers.get("Content-Length", "")
    total = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None
    if total is not None and total > limit:
        raise UserError(f"{name}: {_size(total)}, the limit is {_size(limit)}")
    received = 0
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UserError(f"{name}: the server compressed the file, which was not requested")
    # read1 returns what has arrived; iter_content would wait for a full block, however slowly it fills.
    while block := answer.raw.read1(BLOCK):
        received += len(block)
        if received > limit:
            raise UserError(f"{name}: larger than the limit of {_size(limit)}")
        if time.monotonic() > end:
            raise UserError(
                f"{name}: not complete after {whole_timeout:g} seconds ({_size(received)} received)"
            )
        if progress is not None:
            progress(len(block), total)
        yield block
    if total is not None and received < total:
        raise UserError(f"{name}: incomplete, {received} of {total} bytes received")


def _reason(error: Exception, timeout: float) -> str:
    """Return the cause in a few words, without the URL, which may hold a password."""
    import requests
    from urllib3.exceptions import IncompleteRead, NameResolutionError, ProtocolError

    text = str(error)
    if isinstance(error, requests.exceptions.ProxyError | requests.exceptions.InvalidProxyURL):
        return "the proxy of the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) does not work"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate or encryption was refused"
    if isinstance(error, requests.exceptions.Timeout | TimeoutError):
        return f"no response within {timeout:g} seconds"
    chain = list(_causes(error))
    if any(isinstance(cause, NameResolutionError) for cause in chain):
        return "its host is not known"
    if any(isinstance(cause, IncompleteRead) for cause in chain):
        return "the connection ended before the download was complete"
    if any("timed out" in str(cause) for cause in chain):
        return f"no response within {timeout:g} seconds"
    for cause in reversed(chain):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    if any(isinstance(cause, ProtocolError) for cause in chain) or "headers" in text:
        return "the response is not valid HTTP"
    if isinstance(error, requests.exceptions.InvalidSchema) and "SOCKS" in text:
        return "the proxy of the environment is a SOCKS proxy, which needs: pip install pysocks"
    if isinstance(error, ValueError):  # as requests' errors about URLs are
        return "not a valid URL" + (
            ", or the URL of the environment's proxy is not valid" if getproxies() else ""
        )
    return type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, outermost first."""
    visited: set[int] = set()
    queue: list[object] = [error]
    while queue:
        cause = queue.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in visited:
            visited.add(id(cause))
            yield cause
            queue += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]


def _size(count: int) -> str:
    return f"{count / MEBI:,.1f} MiB" if count >= MEBI else f"{count:,} bytes"
