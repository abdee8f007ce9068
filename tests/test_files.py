"""Files and folders appear whole or not at all; one variable moves all that is cached."""

from pathlib import Path

import pytest

from raffm_utils import files
from raffm_utils.errors import CheckpointError


def test_one_folder_for_all_that_is_cached(monkeypatch, tmp_path):
    monkeypatch.delenv("RAFFM_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert files.cache_folder() == Path.home() / ".cache" / "raffm_utils"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / "raffm_utils"
    monkeypatch.setenv("RAFFM_CACHE", "~/elsewhere")
    assert files.cache_folder() == Path.home() / "elsewhere"


@pytest.mark.parametrize("content", ["new ü\n", b"\x00new"])
def test_a_file_is_replaced_whole(tmp_path, content):
    path = tmp_path / "file"
    for _ in range(2):
        files.write_atomically(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("fault", [OSError("the disk is full"), KeyboardInterrupt()])
def test_a_stopped_write_leaves_the_old_file(tmp_path, monkeypatch, step, fault):
    (tmp_path / "file").write_text("old")

    def stop(*_):
        raise fault

    monkeypatch.setattr(files.os, step, stop)
    with pytest.raises(type(fault)):
        files.write_atomically(tmp_path / "file", "new")
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
    with (
        pytest.raises(CheckpointError, match="folder cannot be written"),
        files.staged(folder, error=CheckpointError, replaced="mark") as part,
    ):
        (part / "mark").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (folder / "mark").read_text() == "old"


def test_a_folder_behind_a_link_is_replaced_where_it_is(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "mark").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with files.staged(tmp_path / "link", replaced="mark") as part:
        (part / "mark").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "mark").read_text() == "new"
