"""Fetch a model's folder from the Hugging Face hub, once, into its cache."""

from __future__ import annotations

from pathlib import Path

from detrscope.checkpoints.third_party import HUB_CONFIG, PROCESSOR_FILES, WEIGHT_FILES
from detrscope.core.errors import UserError


def fetch_hub_folder(repository: str) -> Path:
    """Return the folder in the cache with a repository's config and weights, fetched where they are not there.

    Raises:
        UserError: no network, or no such repository; names the files to fetch by hand.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    files = [HUB_CONFIG, *PROCESSOR_FILES, *WEIGHT_FILES]
    try:
        return Path(snapshot_download(repository, allow_patterns=files))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise UserError(
            f"cannot get '{repository}' from the Hugging Face hub ({reason}); download its {', '.join(files)} by hand"
            " and load the folder"
        ) from None
