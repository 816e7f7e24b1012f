"""Fetch a file over http(s) within limits of size and time; every failure is one line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from detrscope.core.errors import UserError

if TYPE_CHECKING:
    import requests

SCHEMES = ("http", "https")
ANSWER_TIMEOUT = 30.0  # seconds without a byte
WHOLE_TIMEOUT = 3600.0  # seconds for everything
REDIRECTS = 10
BLOCK = 1 << 16
MEBI = 1 << 20
LONGEST_SHOWN = 300  # characters of an address

Progress = Callable[[int, int | None], None]
"""(bytes in this block, bytes of the whole file where the server says so)."""


def is_url(text: object) -> bool:
    """Whether this is an http(s) address."""
    return isinstance(text, str) and text.lower().startswith(("http://", "https://"))


def shown_url(url: str) -> str:
    """An address for messages and results: without user name, password, query and fragment, which may be secret."""
    try:
        parts = urlsplit(url)
        query = "..." if parts.query else ""
        shown = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))
    except ValueError:  # such as "http://[": there is no host to tell a password from
        scheme, _, rest = url.partition("://")
        shown = f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
    return "".join(letter if letter.isprintable() else "?" for letter in shown)[:LONGEST_SHOWN]


def url_path(url: str) -> str:
    """The path of an address, unquoted; empty where there is none or the address is not valid."""
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
    """The content at an address, block by block, checked to be whole.

    Redirects are followed to http(s) addresses only. Proxies of the environment are used.

    Args:
        url: an http(s) address; spaces and non-ASCII letters are quoted.
        limit: most bytes that are taken.
        answer_timeout: seconds without a byte before giving up.
        whole_timeout: seconds for everything.
        progress: called with each block.

    Raises:
        UserError: a bad address, no answer, an answer that is not 200, cut short, too large or too slow. User name,
            password and query of the address are not repeated.
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
        *(OSError, ValueError),  # what they let through of sockets, encodings and odd addresses
    ) as error:
        raise UserError(f"{name}: cannot be fetched ({_reason(error, answer_timeout)})") from None


def _answer(session: requests.Session, url: str, timeout: float) -> requests.Response:
    """The final answer. Redirects are walked by hand, so that each address is looked at first."""
    for _ in range(REDIRECTS):
        if urlsplit(url).scheme.lower() not in SCHEMES:
            scheme = urlsplit(url).scheme
            raise UserError(f"{shown_url(url)}: redirected to '{scheme}', expected an http(s) address")
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
    got = 0
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UserError(f"{name}: the server packed the file, which was not asked for")
    # read1 gives what has come, where iter_content would wait for a full block, however slowly it fills.
    while block := answer.raw.read1(BLOCK):
        got += len(block)
        if got > limit:
            raise UserError(f"{name}: larger than the limit of {_size(limit)}")
        if time.monotonic() > end:
            raise UserError(f"{name}: not there after {whole_timeout:g} seconds ({_size(got)} came)")
        if progress is not None:
            progress(len(block), total)
        yield block
    if total is not None and got < total:
        raise UserError(f"{name}: cut short, {got} of {total} bytes came")


def _reason(error: Exception, timeout: float) -> str:
    """The cause in a few words, without the address, which may hold a password."""
    import requests
    from urllib3.exceptions import IncompleteRead, NameResolutionError, ProtocolError

    text = str(error)
    if isinstance(error, requests.exceptions.ProxyError | requests.exceptions.InvalidProxyURL):
        return "the proxy of the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) does not work"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate or encryption is not accepted"
    if isinstance(error, requests.exceptions.Timeout | TimeoutError):
        return f"no answer within {timeout:g} seconds"
    chain = list(_causes(error))
    if any(isinstance(one, NameResolutionError) for one in chain):
        return "its host is not known"
    if any(isinstance(one, IncompleteRead) for one in chain):
        return "the connection ended before everything had come"
    if any("timed out" in str(one) for one in chain):
        return f"no answer within {timeout:g} seconds"
    for one in reversed(chain):
        if isinstance(one, OSError) and one.strerror:
            return one.strerror
    if any(isinstance(one, ProtocolError) for one in chain) or "headers" in text:
        return "the answer is not proper HTTP"
    if isinstance(error, requests.exceptions.InvalidSchema) and "SOCKS" in text:
        return "the proxy of the environment is a SOCKS proxy, which needs: pip install pysocks"
    if isinstance(error, ValueError):  # requests' own errors of addresses are such
        proxy = requests.utils.getproxies()
        return "not a valid web address" + (", or that of the environment's proxy is none" if proxy else "")
    return type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and all that it was made of, outermost first."""
    seen: set[int] = set()
    todo: list[object] = [error]
    while todo:
        one = todo.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            todo += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]


def _size(count: int) -> str:
    return f"{count / MEBI:,.1f} MiB" if count >= MEBI else f"{count:,} bytes"
