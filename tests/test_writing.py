"""What is written is whole, or not there; nobody writes to what another is writing to."""

import os
import time
from pathlib import Path

import pytest
import torch
from conftest import make_model, make_supernet, make_tokenizer
from helpers.processes import begin, end, in_child
from matplotlib.figure import Figure

from raffm_utils import Budget, deploy, export_submodel, save_figure, writing
from raffm_utils.errors import CheckpointError, DeploymentError, RaffmError, TrainingError, printable
from raffm_utils.federated import named_checkpoints
from raffm_utils.supernet.checkpoints import save


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
    assert printable(place)[-3:] in str(told.value)


@pytest.mark.parametrize("content", ["new ü\n", b"\x00new"])
def test_a_file_is_replaced_whole(tmp_path, content):
    path = tmp_path / "file"
    for _ in range(2):
        writing.write_atomically(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("fault", [OSError("the disk is full"), KeyboardInterrupt()])
def test_a_stopped_write_leaves_the_old_file(tmp_path, monkeypatch, step, fault):
    (tmp_path / "file").write_text("old")

    def stop(*_):
        raise fault

    monkeypatch.setattr(writing.os, step, stop)
    with pytest.raises(type(fault)):
        writing.write_atomically(tmp_path / "file", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_name(tmp_path, monkeypatch):
    folder, rename = tmp_path / "folder", Path.rename
    folder.mkdir()
    (folder / "mark").write_text("old")

    def refuse(source, target):
        if (source / "mark").read_text() == "new":
            raise OSError("no")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr(writing, "_swap", lambda one, other: False)
    with (
        pytest.raises(CheckpointError, match="folder cannot be written"),
        writing.staged(folder, error=CheckpointError, replaced="mark") as part,
    ):
        (part / "mark").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (folder / "mark").read_text() == "old"


def test_a_folder_behind_a_link_is_replaced_where_it_is(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "mark").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with writing.staged(tmp_path / "link", replaced="mark") as part:
        (part / "mark").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "mark").read_text() == "new"


def write_folder(folder: Path, text: str) -> None:
    with writing.staged(folder, error=CheckpointError, replaced="mark") as part:
        (part / "deeper").mkdir()
        for name in ("mark", "other", "deeper/one"):
            (part / name).write_text(text)


def content_of(folder: Path) -> set[str]:
    return {path.read_text() for path in folder.rglob("*") if path.is_file()}


def die_at(name: str, monkeypatch, owner=writing.os, after: bool = False) -> None:
    """Let a process that calls a function die, before or after what it does."""
    function, parent = getattr(owner, name), os.getpid()

    def dies(*arguments, **options):
        found = function(*arguments, **options) if after or os.getpid() == parent else None
        if os.getpid() != parent:
            os.kill(os.getpid(), 9)
        return found

    monkeypatch.setattr(owner, name, dies)


@pytest.mark.parametrize("swaps", [True, False])
@pytest.mark.parametrize(("name", "after", "kept"), [("_put", False, "old"), ("_put", True, "new")])
def test_a_folder_is_replaced_in_one_step(tmp_path, monkeypatch, swaps, name, after, kept):
    folder = tmp_path / "folder"
    write_folder(folder, "old")
    with monkeypatch.context() as patch:
        if not swaps:
            patch.setattr(writing, "_swap", lambda one, other: False)
        die_at(name, patch, writing, after)
        assert in_child(lambda: write_folder(folder, "new")) == ""
    assert content_of(folder) == {kept}
    assert len(list(tmp_path.iterdir())) == 2, "and what was left behind"
    write_folder(tmp_path / "another", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another", "folder"]
    assert content_of(folder) == {kept}


def test_where_the_system_cannot_swap_the_next_writing_puts_a_folder_in_place_that_a_kill_kept_out(
    tmp_path, monkeypatch
):
    folder = tmp_path / "folder"
    write_folder(folder, "old")
    rename, parent = Path.rename, os.getpid()

    def dies_between(source, target):
        if os.getpid() != parent and target == folder:
            os.kill(os.getpid(), 9)
        return rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "_swap", lambda one, other: False)
        patch.setattr(Path, "rename", dies_between)
        assert in_child(lambda: write_folder(folder, "new")) == ""
    assert not folder.exists()
    write_folder(tmp_path / "another", "x")
    assert content_of(folder) == {"new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another", "folder"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not tell what a handle is of")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_all_is_on_disk_before_it_takes_its_place(tmp_path, monkeypatch, kind):
    write_folder(tmp_path / "folder", "old")
    events: list[str] = []
    fsync, put, replace = os.fsync, writing._put, os.replace

    def name_of(handle):
        return Path(os.readlink(f"/proc/self/fd/{handle}")).name

    monkeypatch.setattr(os, "fsync", lambda handle: (events.append(name_of(handle)), fsync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (events.append("in place"), replace(*names))[1])
    monkeypatch.setattr(writing, "_put", lambda *names: (events.append("in place"), put(*names))[1])
    if kind == "file":
        writing.write_atomically(tmp_path / "new" / "file", "new")
        assert events == [tmp_path.name, "file", "in place", "new"]
    else:
        write_folder(tmp_path / "folder", "new")
        assert events[-2:] == ["in place", tmp_path.name]
        assert sorted(events[:-2]) == ["deeper", "folder", "mark", "one", "other"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_kills_left_behind_goes_with_the_next_writing_and_what_grows_stays(tmp_path, kind):
    def die():
        with writing.replacing(tmp_path / "file") as part:
            part.write_bytes(bytes(1000))
            os.kill(os.getpid(), 9)

    assert [in_child(die) for _ in range(5)] == [""] * 5
    assert len(list(tmp_path.iterdir())) == 1, "each removed what the one before had left"
    with writing.replacing(tmp_path / "other") as growing:
        growing.write_text("other")
        if kind == "file":
            writing.write_atomically(tmp_path / "file", "new")
        else:
            write_folder(tmp_path / "file", "new")
        assert sorted(path.name for path in tmp_path.iterdir()) == [growing.parent.name, "file"]
    assert (tmp_path / "other").read_text() == "other"


def test_where_no_locks_are_to_be_had_only_what_is_a_day_old_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "fcntl", None)
    old, new = (tmp_path / f"{writing.PART_PREFIX}{name}" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (time.time() - 90_000,) * 2)
    writing.write_atomically(tmp_path / "file", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, "file"]


def test_a_place_that_is_taken_for_left_behind_is_left_for_another(tmp_path, monkeypatch):
    opened, taken = writing._opened, []

    def and_another_clears(folder):
        if not taken:
            taken.append(folder)
            folder.rmdir()
        return opened(folder)

    monkeypatch.setattr(writing, "_opened", and_another_clears)
    writing.write_atomically(tmp_path / "file", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert taken


def save_tiny(path: Path) -> None:
    supernet = make_supernet()
    save(path, supernet.model, supernet.spec, None, torch.float32)


PLACES = ["/sys/new", "file", "file/new", "n" * 300, "a\0b"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("error", "write"),
    [
        (CheckpointError, save_tiny),
        (DeploymentError, lambda path: export_submodel(make_model("vit"), path, ("safetensors",))),
        (DeploymentError, lambda path: deploy("none is looked for", Budget(), path, formats=("safetensors",))),
        (CheckpointError, lambda path: named_checkpoints.train("bert-mini-movie-reviews-small-budget", path)),
        (RaffmError, lambda path: save_figure(Figure(), "name", path)),
    ],
    ids=["checkpoint", "export", "deploy", "train", "figure"],
)
def test_every_writer_names_a_place_that_cannot_be_written_before_it_works(tmp_path, place, error, write):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(error, match=r"(cannot be written|is a file).*give") as told:
        write(tmp_path / place)
    assert type(told.value) is error
    assert printable(place)[-3:] in str(told.value)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "mine")]


@pytest.mark.parametrize("room", [0, 300, 1000, 3000, 20_000])
def test_a_disk_that_runs_full_leaves_what_was_there(tmp_path, room):
    folder = tmp_path / "folder"
    supernet, tokenizer = make_supernet("bert"), make_tokenizer("bert")
    save(folder, supernet.model, supernet.spec, tokenizer, torch.float32)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert max(map(len, before.values())) > room
    other = make_supernet("bert", seed=1)
    said = in_child(lambda: save(folder, other.model, other.spec, tokenizer, torch.float32), room)
    assert said.startswith(f"CheckpointError: {folder} cannot be written (")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
