"""Upload files to a repository of the Hugging Face hub; every failure is one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrscope.console import console, log
from detrscope.core.errors import UserError, WorkFailed

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CLIENTS = ("httpx", "httpx2", "httpcore", "requests", "urllib3")  # of huggingface_hub, by its version
TOKEN_PAGE = "https://huggingface.co/settings/tokens"


def signed_in_api() -> HfApi:
    """Return the hub's interface.

    Raises:
        UserError: nobody has signed in.
    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise UserError(
            f"no token for the Hugging Face hub; make one with the right to write at {TOKEN_PAGE}, then run `hf auth"
            " login` or set HF_TOKEN (dry_run=True writes the files without one)"
        )
    return HfApi(library_name="detrscope")


@contextmanager
def _quiet_bars() -> Iterator[None]:
    """Hide huggingface_hub's progress bars where ours would not be shown: without a terminal, or on request."""
    bars: Any = import_module("huggingface_hub.utils")  # its stubs do not export these functions
    if bars.are_progress_bars_disabled() or (console().is_terminal and not console().quiet):
        yield
        return
    bars.disable_progress_bars()
    try:
        yield
    finally:
        bars.enable_progress_bars()


def upload_to_hub(api: HfApi, folder: Path, files: Sequence[str], repository: str, private: bool) -> str:
    """Make the repository where it does not exist, and add the files in one commit; return its address."""
    from huggingface_hub import CommitOperationAdd

    with _hub_errors(repository):
        url = str(api.create_repo(repository, private=private, exist_ok=True))
        there = api.model_info(repository)
    if private and not there.private:
        raise UserError(
            f"{repository}: exists and is public; nothing was uploaded. Make it private in its settings on the hub, or"
            " choose another name"
        )
    old = sorted({file.rfilename for file in there.siblings or ()} & set(files))
    if old:
        log.warning("%s: replacing %s", repository, ", ".join(old))
    adding = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in files]
    with _hub_errors(repository), _quiet_bars():
        api.create_commit(repository, adding, commit_message="Add a detrscope model")
    log.info("%s: %d files, %.1f MB", url, len(files), _size(folder, files) / 1e6)
    return url


def _size(folder: Path, files: Sequence[str]) -> int:
    return sum((folder / name).stat().st_size for name in files)


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """Turn errors of the hub and of the network into one line."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except Exception as error:
        answer: Any = getattr(error, "response", None) if isinstance(error, HfHubHTTPError) else None
        cause = error.__cause__ or error  # of a failed file: what failed
        reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)[:200]
        if answer is not None and answer.status_code == 401:
            raise UserError(
                f"{repository}: the hub refused the token; make a new one at {TOKEN_PAGE} and run `hf auth login`"
            ) from None
        if answer is not None and answer.status_code == 403:
            raise UserError(
                f"{repository}: the token may not write there; take one with the right to write ({TOKEN_PAGE}), or"
                " another owner"
            ) from None
        of_network = isinstance(error, OSError) or type(error).__module__.partition(".")[0] in CLIENTS
        if answer is None and not of_network and not isinstance(error, ValueError | RuntimeError):
            raise
        raise WorkFailed(
            f"{repository}: cannot be uploaded to the Hugging Face hub ({reason}); try again, or write the files with"
            " dry_run=True and upload them by hand"
        ) from None
