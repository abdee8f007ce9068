"""Silence around libraries that report their internals; problems are raised as errors instead."""

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import transformers

_lock = threading.Lock()
_held: dict[str, tuple[int, ExitStack]] = {}  # what is changed -> how many want it so, and how to change it back


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Silence warnings, progress bars, and everything below an error from the logger of this name.

    These are settings of the whole process: the first of several threads changes them, the last changes them back.
    """
    with (
        _together("warnings", lambda: warnings.catch_warnings(action="ignore")),
        _together("progress bars", _no_progress_bar),
        _together(f"logger {name}", lambda: _errors_only(logging.getLogger(name))),
    ):
        yield


@contextmanager
def _together(key: str, change: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
    with _lock:
        count, undo = _held.get(key) or (0, ExitStack())
        if not count:
            undo.enter_context(change())
        _held[key] = count + 1, undo
    try:
        yield
    finally:
        with _lock:
            count, undo = _held.pop(key)
            if count > 1:
                _held[key] = count - 1, undo
            else:
                undo.close()


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    shown = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.logging.enable_progress_bar()


@contextmanager
def _errors_only(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
