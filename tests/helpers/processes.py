"""Child processes that are killed, or find the disk full: forked, as a new one would import for seconds."""

import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from tqdm.auto import tqdm

from raffm_utils.errors import RaffmError


def begin(action: Callable[[], object], room: int | None = None) -> tuple[int, int]:
    """Start `action` in a child; returns its number and a pipe to its answer. No file of it may grow beyond `room`."""
    answer, to_parent = os.pipe()
    if child := os.fork():
        os.close(to_parent)
        return child, answer
    os.close(answer)
    own_lock_of_bars()
    _act(action, to_parent, room)


def own_lock_of_bars() -> None:
    """Progress bars share a lock with forked children: one that is killed within it would hold it for ever."""
    tqdm.set_lock(threading.RLock())


def _act(action: Callable[[], object], to_parent: int, room: int | None) -> NoReturn:
    try:
        if room is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        action()
        said = "done"
    except RaffmError as error:
        said = f"{type(error).__name__}: {error}"
    except BaseException as error:
        said = f"not ours: {type(error).__name__}: {error}"
    os.write(to_parent, said.encode(errors="replace")[:4000])
    os._exit(0)


def end(child: int, answer: int) -> str:
    """Wait for a child; returns "done", its error, or "" if it was killed."""
    said = bytearray()
    with killed_if_given_up(child):
        while part := os.read(answer, 4096):
            said += part
        os.close(answer)
        os.waitpid(child, 0)
    return said.decode()


@contextmanager
def killed_if_given_up(child: int) -> Iterator[None]:
    """What waits for a child here may be interrupted, or run out of time: then no child is left behind."""
    try:
        yield
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise


def in_child(action: Callable[[], object], room: int | None = None) -> str:
    """What came of `action` in a child; see `begin` and `end`."""
    return end(*begin(action, room))
