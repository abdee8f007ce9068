"""The Hugging Face hub: a quick check whether it can be reached, and downloads from it."""

import os
import socket
import threading
import urllib.request
from pathlib import Path

from .errors import CheckpointError

TIMEOUT_SECONDS = 1.5


def hub_reachable() -> bool:
    """Whether the hub, or the proxy before it, answers in time; its own client would try for 20 s and longer."""
    from huggingface_hub import constants

    # the client reads the variable once, when it is imported; a notebook may set it later
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return False
    answered = threading.Event()

    def probe() -> None:
        try:
            socket.create_connection(_first_stop(constants.ENDPOINT), timeout=TIMEOUT_SECONDS).close()
            answered.set()
        except (OSError, ValueError):  # ValueError: no such port or host name can be
            pass

    # name look-up has no timeout of its own, so the wait is bounded from outside
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(TIMEOUT_SECONDS)
    return answered.is_set()


def _first_stop(endpoint: str) -> tuple[str, int]:
    """Host and port that a request to `endpoint` connects to: its own, or those of a proxy."""
    target, proxies = urllib.parse.urlsplit(endpoint), urllib.request.getproxies()
    proxy = proxies.get(target.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(target.hostname or ""):
        target = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return target.hostname or "", target.port or {"http": 80, "https": 443}.get(target.scheme, 1080)


def download(repo_id: str, patterns: list[str], revision: str | None = None) -> Path:
    """Download the matching files of a model on the hub, or find them in the cache; returns the local folder.

    `revision` is a branch, tag or commit; None is the branch `main`.

    Raises `CheckpointError` when that is not possible.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name = repr(repo_id) if revision is None else f"{repo_id!r}, revision {revision!r},"
    offline = not hub_reachable()
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns, local_files_only=offline))
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{name} is not in the local hub cache, and the hub cannot be reached: go online, or download the "
            "folder elsewhere and give its path; the bundled checkpoints need no network"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{name} cannot be downloaded from the hub ({reason}): check the id, the revision and your access"
        ) from error
