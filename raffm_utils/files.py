"""Locations of files, and atomic writes of files and folders."""

import json
import os
import secrets
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .errors import DeploymentError, RaffmError

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


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path for writing a file, which replaces `path` at the end if nothing failed."""
    part = _beside(path)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file atomically: after an error or a kill, `path` is unchanged."""
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def staged(
    folder: Path, needed_bytes: int = 0, *, error: type[RaffmError] = DeploymentError, replaced: str | None = None
) -> Iterator[Path]:
    """A temporary folder beside `folder`, which replaces it at the end if nothing failed.

    Raises `error` when `folder` holds anything, unless the file `replaced` is in it, when the disk has less room
    than is needed, and when writing fails; whatever the error, all is as it was. A killed process leaves a hidden
    `.part` folder.
    """
    check_target(folder, error, replaced)
    target = folder.resolve()
    part, old = _beside(target), _beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(target.parent).free) < needed_bytes:
            raise error(
                f"{folder}: about {needed_bytes / 1e6:,.1f} MB are needed, but the disk has {free / 1e6:,.1f} MB left: "
                "make room, or ask for fewer formats"
            )
        part.mkdir()
        yield part
        check_target(folder, error, replaced)  # it may have been filled in the meantime
        if target.exists():
            target.rename(old)
        part.rename(target)
    except (OSError, SafetensorError) as fault:
        raise error(
            f"{folder} cannot be written ({fault}): make room, or give a folder that can be written; all is as it was"
        ) from fault
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)


def check_target(folder: Path, error: type[RaffmError] = DeploymentError, replaced: str | None = None) -> None:
    """Raise `error` unless `folder` is new or empty, or the file `replaced` is in it."""
    if not folder.is_dir():
        if folder.exists():
            raise error(f"{folder} is a file: give the path of a new folder")
        return
    held = sorted(path.name for path in folder.iterdir())
    if held and replaced not in held:
        shown = ", ".join(held[:3]) + (", ..." if len(held) > 3 else "")
        raise error(f"{folder} is not empty ({len(held)}: {shown}): give another folder, or remove it")
