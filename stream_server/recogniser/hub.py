"""Models by name: a folder here, or a repository on the Hugging Face hub.

``HF_HOME``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` are honoured by the hub's own client, which also
shows how far a download is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from stream_server.errors import ModelError

_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def fetch(name: str, option: str, files: Sequence[str]) -> Path:
    """Return the folder that ``name`` means, downloaded if it is not here yet.

    Args:
        name: a folder, or ``owner/name`` on the hub.
        option: which option said so, for messages.
        files: patterns of what is needed of a repository.

    Raises:
        ModelError: says what to accept, set or give instead.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    flag = "--" + option.replace("_", "-")
    if not _NAME.fullmatch(name):
        raise ModelError(
            f"{option} {name!r}: not a folder, nor a name on the hub (owner/name); "
            f"give one of them as {flag}"
        )
    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except GatedRepoError as error:
        raise ModelError(
            f"{option} {name!r} is gated: accept its conditions at https://huggingface.co/{name}, "
            f"then set HF_TOKEN to a token of that account"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"{option} {name!r}: there is no such repository, or it is private and HF_TOKEN is not "
            f"set to a token that may read it"
        ) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise ModelError(
            f"{option} {name!r} is not in the cache (HF_HOME) and the hub cannot be reached: unset "
            f"HF_HUB_OFFLINE if it is set, check the network, or give a folder as {flag}"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(f"{option} {name!r} could not be downloaded: {error}") from error


__all__ = ["fetch"]
