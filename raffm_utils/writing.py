"""Writing that a kill, a full disk or a second process cannot harm.

What is written grows in a hidden folder of its own beside its place, which is locked meanwhile. Whole and on disk, it
takes its place in one step. A folder that nobody has locked was left behind by a kill, and goes with the next writing.
"""

import ctypes
import os
import platform
import secrets
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from .errors import DeploymentError, RaffmError

try:
    import fcntl
except ImportError:  # Windows: what is written there by two processes at once is not kept apart
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"  # in a folder that is held
PART_PREFIX = ".raffm-part-"  # of the folders in which something grows
_ASIDE = ".aside"  # what is to be replaced, in such a folder, where the system cannot swap
_NAMING_SECONDS = 0.5  # in which who holds a folder has written down who it is
_ABANDONED_SECONDS = 24 * 3600  # after which what was left is removed where there are no locks to tell


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path for writing a file, which replaces `path` at the end if nothing failed."""
    with _part(path) as part:
        yield part
        _sync(part)
        os.replace(part, path)
        sync_folder(path.parent)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file atomically: after an error or a kill, `path` is unchanged."""
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def staged(
    folder: Path, needed_bytes: int = 0, *, error: type[RaffmError] = DeploymentError, replaced: str | None = None
) -> Iterator[Path]:
    """A temporary folder beside `folder`, which replaces it at the end, in one step, if nothing failed.

    Raises `error` when `folder` holds anything, unless the file `replaced` is in it, when the disk has less room
    than is needed, and when writing fails; whatever the error, all is as it was.
    """
    check_target(folder, error, replaced)
    with explained(folder, error):
        target = Path(os.path.realpath(folder))
        with _part(target) as part:
            if (free := shutil.disk_usage(part.parent).free) < needed_bytes:
                raise error(
                    f"{folder}: about {needed_bytes / 1e6:,.1f} MB are needed, but the disk has {free / 1e6:,.1f} MB "
                    "left: make room, or ask for fewer formats"
                )
            part.mkdir()
            yield part
            check_target(folder, error, replaced)  # it may have been filled in the meantime
            _sync(part)
            _put(part, target)
            sync_folder(target.parent)


def check_target(folder: Path, error: type[RaffmError] = DeploymentError, replaced: str | None = None) -> None:
    """Raise `error` unless `folder` is new or empty, or the file `replaced` is in it, and it can be written."""
    with explained(folder, error):
        if folder.is_dir():
            entries = sorted(path.name for path in folder.iterdir())
            if entries and replaced not in entries:
                shown = ", ".join(entries[:3]) + (", ..." if len(entries) > 3 else "")
                raise error(f"{folder} is not empty ({len(entries)}: {shown}): give another folder, or remove it")
        elif folder.exists():
            raise error(f"{folder} is a file: give the path of a new folder")
        above = next(path for path in Path(os.path.realpath(folder)).parents if path.exists())
        with tempfile.TemporaryDirectory(prefix=PART_PREFIX, dir=above):
            pass


@contextmanager
def _part(target: Path) -> Iterator[Path]:
    """Where something may grow that is to take the place of `target`: in a locked folder, removed in the end."""
    folder = target.parent
    _make(folder)
    for left in folder.glob(f"{PART_PREFIX}*"):
        _clear(left)
    while True:
        room = folder / f"{PART_PREFIX}{secrets.token_hex(4)}"
        room.mkdir()
        handle = _opened(room)
        # it may be taken, before it is locked, for one that was left behind
        if room.exists() if handle is None else lock(handle, wait=False) is not False and is_at(handle, room):
            break
        if handle is not None:
            os.close(handle)
    try:
        yield room / target.name
    finally:
        shutil.rmtree(room, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def _clear(room: Path) -> None:
    """Remove what a kill has left behind; what it was about to put in place, having taken the old away, it gets."""
    handle = _opened(room)
    try:
        found = None if handle is None else lock(handle, wait=False)
        with suppress(OSError):
            if found or (found is None and time.time() - room.stat().st_mtime > _ABANDONED_SECONDS):
                if (room / _ASIDE).exists():
                    for whole in room.iterdir():
                        if whole.name != _ASIDE and not (target := room.parent / whole.name).exists():
                            whole.rename(target)
                shutil.rmtree(room, ignore_errors=True)
    finally:
        if handle is not None:
            os.close(handle)


def _put(part: Path, target: Path) -> None:
    """Let a whole folder take the place of another, in one step where the system knows how to."""
    if not target.exists():
        part.rename(target)
    elif not _swap(part, target):
        aside = part.with_name(_ASIDE)
        target.rename(aside)
        try:
            part.rename(target)
        except BaseException:
            aside.rename(target)
            raise


def _swap(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; returns whether the system knows how to."""
    if os.name != "posix":
        return False
    library, names = ctypes.CDLL(None), (os.fsencode(one), os.fsencode(other))
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        return library.renamex_np(*names, 2) == 0  # RENAME_SWAP
    if hasattr(library, "renameat2"):
        here = -100  # AT_FDCWD
        return library.renameat2(here, names[0], here, names[1], 2) == 0  # RENAME_EXCHANGE
    return False


def _sync(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, is on disk."""
    if path.is_dir():
        for entry in path.iterdir():
            _sync(entry)
        sync_folder(path)
    else:
        handle = os.open(path, os.O_RDONLY if fcntl else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _make(folder: Path) -> None:
    """Make a folder and those above it, and wait until their names are on disk."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new:
        sync_folder(path.parent)


def _opened(folder: Path) -> int | None:
    """The handle of a folder, for its lock; None where there is none, or the system opens no folders."""
    with suppress(OSError):
        return os.open(folder, os.O_RDONLY)
    return None


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
        _make(folder)
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
    except Exception as fault:
        # libraries in Rust may wrap what the system says in any error
        if not isinstance(fault, OSError | UnicodeEncodeError | SafetensorError) and "(os error " not in str(fault):
            raise
        raise error(
            f"{path} cannot be written ({fault}): make room, or give a folder that can be written; all is as it was"
        ) from fault


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk, where the system knows how to."""
    if (handle := _opened(folder)) is not None:
        with suppress(OSError):  # some network file systems cannot
            os.fsync(handle)
        os.close(handle)
