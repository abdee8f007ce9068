"""One variable moves all that is cached."""

from pathlib import Path

from raffm_utils import files


def test_one_folder_for_all_that_is_cached(monkeypatch, tmp_path):
    monkeypatch.delenv("RAFFM_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert files.cache_folder() == Path.home() / ".cache" / "raffm_utils"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / "raffm_utils"
    monkeypatch.setenv("RAFFM_CACHE", "~/elsewhere")
    assert files.cache_folder() == Path.home() / "elsewhere"
