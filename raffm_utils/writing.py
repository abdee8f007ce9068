"""Writing that a kill, a full disk or a second process cannot harm."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
