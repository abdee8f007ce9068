"""Writing that a kill, a full disk or a second process cannot harm."""

import os
import platform
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .errors import RaffmError

try:
    import fcntl
except ImportError:  # Windows: what is written there by two processes at once is not kept apart
    fcntl = None  # type: ignore[assignment]


def lock(handle: int, *, wait: bool) -> bool | None:
    """Lock an open file or folder against all others, other threads too, until it is closed; a kill unlocks it.

    Returns False if another has it, for which `wait` waits instead; None where the file system has no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextmanager
def opened_alone(path: Path) -> Iterator[int]:
    """The handle of a file, made if need be, that is open for reading and appending, and locked meanwhile."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        try:
            lock(handle, wait=True)
            if is_at(handle, path):  # and was not removed before its lock was to be had
                yield handle
                return
        finally:
            os.close(handle)


def is_at(handle: int, path: Path) -> bool:
    """Whether an open file or folder is what lies at `path` now."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


LOCK_FILE = ".lock"  # in a folder that is held
_NAMING_SECONDS = 0.5  # in which who holds a folder has written down who it is


@contextmanager
def held(folder: Path, error: type[RaffmError]) -> Iterator[None]:
    """Keep a folder, made if need be, to this process; a kill lets go of it.

    Raises `error`, which names the process that has it, if another has, or if it cannot be written to.
    """
    path = folder / LOCK_FILE
    with explained(folder, error):
        handle = _opened_first(folder, error)
        os.ftruncate(handle, 0)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        os.write(handle, f"process {os.getpid()} on {platform.node()} since {now}".encode())
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _opened_first(folder: Path, error: type[RaffmError]) -> int:
    path = folder / LOCK_FILE
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        found = lock(handle, wait=False)
        if found is False:
            holder = _holder(handle)
            os.close(handle)
            raise error(f"{folder} is in use by {holder}: wait until that has ended, or give another folder")
        if is_at(handle, path):  # and was not removed by one that ended at this moment
            if found is None:
                warnings.warn(f"{folder}: no locks here, so nothing else may write to it meanwhile", stacklevel=5)
            return handle
        os.close(handle)


def _holder(handle: int) -> str:
    deadline = time.monotonic() + _NAMING_SECONDS
    while not (said := os.read(handle, 200)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return said.decode(errors="replace") or "another process"


@contextmanager
def explained(path: Path, error: type[RaffmError]) -> Iterator[None]:
    """Turn what the system refuses, while `path` is written, into an `error` that names it."""
    try:
        os.fsencode(path)
        if "\0" in str(path):
            raise OSError("a name with the character 0")
        yield
    except (OSError, UnicodeEncodeError, SafetensorError) as fault:
        raise error(
            f"{path} cannot be written ({fault}): make room, or give a folder that can be written; all is as it was"
        ) from fault


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk, where the system knows how to."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    except OSError:  # some network file systems
        pass
    finally:
        os.close(handle)
