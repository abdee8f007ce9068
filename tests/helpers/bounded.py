"""Runs a function in a process of its own, with little memory and time: what is eaten is not this process's."""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable

import pytest
from helpers.processes import own_lock_of_bars

from raffm_utils.errors import RaffmError


def refusal(function: Callable[[], object], *, seconds: int = 8, memory_bytes: int = 600 * 2**20) -> str:
    """The message of the `RaffmError` that the function ends in; fails the test for anything else, or if it hangs."""
    if not sys.platform.startswith("linux"):
        pytest.skip("memory is bounded as Linux does it")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        own_lock_of_bars()
        os.write(write, _told(function, memory_bytes).encode(errors="replace")[:60_000])
        os._exit(0)
    os.close(write)
    end = time.monotonic() + seconds
    while (ended := os.waitpid(child, os.WNOHANG)[0] != 0) is False and time.monotonic() < end:
        time.sleep(0.01)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with open(read, "rb") as pipe:
        told = pipe.read().decode()
    assert ended, f"not refused within {seconds} s"
    assert told.startswith("refused: "), told or "the process has died"
    return told.removeprefix("refused: ")


def _told(function: Callable[[], object], memory_bytes: int) -> str:
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory_bytes,) * 2)
    try:
        function()
    except RaffmError as error:
        return f"refused: {error}"
    except BaseException as error:  # to be shown by the test
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"
