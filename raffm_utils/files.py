"""Locations of files, and reading what may be anything."""

import json
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from .errors import RaffmError

REPOSITORY = Path(__file__).resolve().parent.parent  # where the bundled checkpoints, data and figures lie
RUNS_FOLDER = REPOSITORY / "runs"  # what goes on where it stopped
MAX_TEXT_BYTES = 64 * 2**20  # of a file of settings or words: the largest tokenizers have half of it
CACHE_VARIABLE = "RAFFM_CACHE"


def cache_folder() -> Path:
    """The folder for encoded data and measured latencies: `RAFFM_CACHE`, or `raffm_utils` in the user's cache.

    Raises `RaffmError` where neither is known, as in a container whose user has no home folder.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return at_home(named, CACHE_VARIABLE)
    return at_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache", CACHE_VARIABLE) / "raffm_utils"


def at_home(path: str, variable: str) -> Path:
    """The path with `~` replaced; a `RaffmError` names the variable to set if there is no home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise RaffmError(
            f"{path}: this user has no home folder ({error}): set {variable} to the full path of a folder"
        ) from error


def parse_json(text: str | bytes) -> Any:
    """Decoded JSON; `ValueError` also for a key given twice, of which one would be dropped."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            (name, _), *_ = Counter(key for key, _ in pairs).most_common(1)
            raise ValueError(f"the key {name!r} is given twice")
        return found

    return json.loads(text, object_pairs_hook=unique)


def read_json(path: Path, error: type[RaffmError]) -> Any:
    """The decoded content of an ordinary file of JSON; raises `error` for any other, `FileNotFoundError` for none."""
    check_ordinary(path, error, MAX_TEXT_BYTES)
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as reason:
        raise error(f"{path}: not JSON ({reason}): restore the file from its source") from reason


def check_ordinary(path: Path, error: type[RaffmError], max_bytes: int | None = None) -> None:
    """Raise `error` unless reading `path` ends: not with a pipe, a device, a folder, or more than `max_bytes`."""
    try:
        info = path.stat()
    except FileNotFoundError as reason:
        if path.is_symlink():
            raise error(f"{path} is a link to {path.readlink()}, which is not there: fetch what it means") from reason
        raise
    except (OSError, ValueError) as reason:
        raise error(f"{path} cannot be read ({reason}): give the path of a file that you may read") from reason
    if not stat.S_ISREG(info.st_mode):
        kind = "a folder" if stat.S_ISDIR(info.st_mode) else "a pipe, a socket or a device"
        raise error(f"{path} is {kind}, where a file is expected: put the file in its place")
    if not os.access(path, os.R_OK):
        raise error(f"{path} may not be read by this user: allow it with chmod u+r, or copy the file")
    if max_bytes is not None and info.st_size > max_bytes:
        raise error(
            f"{path}: {info.st_size / 1e6:,.1f} MB, above the limit of {max_bytes / 1e6:.1f} MB: "
            "take the file that belongs there"
        )
