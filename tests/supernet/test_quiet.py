"""Silence that several threads want at the same time, and that leaves everything as it was."""

import logging
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import transformers
from conftest import write_text_checkpoint

from raffm_utils import Supernet
from raffm_utils.supernet import quiet


def settings() -> tuple[object, ...]:
    levels = tuple(logging.getLogger(name).level for name in ("transformers", "torch.onnx", "root"))
    return (*levels, list(warnings.filters), transformers.logging.is_progress_bar_enabled(), sys.stdout)


@pytest.fixture(autouse=True)
def _noisy():
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_info()
    transformers.logging.enable_progress_bar()
    yield
    transformers.logging.set_verbosity(level)


@pytest.mark.parametrize("first_out", [0, 1])
def test_the_last_thread_to_leave_changes_back_what_the_first_changed(first_out):
    before, steps = settings(), [threading.Event() for _ in range(4)]

    def hold(entered: threading.Event, leave: threading.Event) -> None:
        with quiet("transformers"):
            entered.set()
            assert leave.wait(20)

    threads = [threading.Thread(target=hold, args=steps[2 * i : 2 * i + 2]) for i in range(2)]
    for thread, entered in zip(threads, steps[::2], strict=True):
        thread.start()
        assert entered.wait(20)
    for number in (first_out, 1 - first_out):
        assert logging.getLogger("transformers").level == logging.ERROR
        assert not transformers.logging.is_progress_bar_enabled()
        assert sys.stdout is before[-1]
        steps[2 * number + 1].set()
        threads[number].join()
    assert settings() == before


def test_what_is_inside_is_silent_and_an_error_ends_it(caplog, recwarn):
    before = settings()

    def speak() -> None:
        logging.getLogger("transformers.modeling_utils").info("internals")
        warnings.warn("internals", stacklevel=1)
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"), quiet("transformers"), quiet("torch.onnx"):
        speak()
    assert settings() == before
    assert not caplog.records
    assert not recwarn.list


def test_checkpoints_loaded_side_by_side_leave_the_process_as_it_was(tmp_path):
    folder, before = write_text_checkpoint(tmp_path, "bert"), settings()
    for _ in range(4):
        with ThreadPoolExecutor(3) as pool:
            assert len({s.fingerprint() for s in pool.map(Supernet.from_pretrained, [folder] * 3)}) == 1
        assert settings() == before
