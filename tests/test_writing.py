"""What is written is whole, or not there; nobody writes to what another is writing to."""

import os
import time

import pytest
from helpers.processes import begin, end

from raffm_utils import writing
from raffm_utils.errors import TrainingError


def wait_for(path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def hold_for_ever(folder):
    with writing.held(folder, TrainingError):
        (folder / "held").touch()
        time.sleep(60)


def test_a_folder_has_one_holder_who_is_named_and_a_kill_frees_it(tmp_path):
    folder = tmp_path / "new" / "run"
    child, answer = begin(lambda: hold_for_ever(folder))
    wait_for(folder / "held")
    with (
        pytest.raises(TrainingError, match=rf"run is in use by process {child} on \S+ since 20\d\d-.*: wait"),
        writing.held(folder, TrainingError),
    ):
        pytest.fail("it was not to be had")
    os.kill(child, 9)
    assert end(child, answer) == ""
    with writing.held(folder, TrainingError):
        assert sorted(path.name for path in folder.iterdir()) == [writing.LOCK_FILE, "held"]
    assert [path.name for path in folder.iterdir()] == ["held"]


def test_a_thread_of_the_same_process_is_another_too(tmp_path):
    with writing.held(tmp_path, TrainingError):
        with pytest.raises(TrainingError, match=f"process {os.getpid()} "), writing.held(tmp_path, TrainingError):
            pytest.fail("it was not to be had")
        assert (tmp_path / writing.LOCK_FILE).exists(), "the one that was refused leaves the lock of the first"


def test_a_lock_that_goes_while_it_is_opened_is_opened_again(tmp_path, monkeypatch):
    lock, seen = writing.lock, []

    def and_the_first_ends(handle, *, wait):
        if not seen:
            (tmp_path / writing.LOCK_FILE).unlink()
        seen.append(handle)
        return lock(handle, wait=wait)

    monkeypatch.setattr(writing, "lock", and_the_first_ends)
    with writing.held(tmp_path, TrainingError):
        assert len(seen) == 2
        assert (tmp_path / writing.LOCK_FILE).exists()


def test_where_no_locks_are_to_be_had_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "fcntl", None)
    with pytest.warns(UserWarning, match="no locks here"), writing.held(tmp_path, TrainingError):
        pass


@pytest.mark.parametrize("place", ["/sys/run", "file", "file/run", "n" * 300, "a\0b", "\udc00\ud800"])
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, place):
    (tmp_path / "file").touch()
    with (
        pytest.raises(TrainingError, match=r"cannot be written \(.*give a folder") as told,
        writing.held(tmp_path / place, TrainingError),
    ):
        pytest.fail("it was not to be had")
    assert place[-3:] in str(told.value)
