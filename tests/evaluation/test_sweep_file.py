"""Sweep files under kills, second sweeps, crashes of the machine and full disks."""

from pathlib import Path

import pytest
from conftest import make_split, make_supernet, some_configs
from helpers.processes import in_child

from raffm_utils.errors import SweepError
from raffm_utils.evaluation import SweepRow, read_sweep, sweep, sweep_file


def _sweep(path: Path, count: int) -> list[SweepRow]:
    supernet = make_supernet("vit")
    return sweep(supernet, some_configs(supernet, count), make_split("vit"), path, progress=False)


def _torn(path: Path) -> bytes:
    """Cut the last row short, as a kill may; returns what is whole."""
    content = path.read_bytes()
    start = content.rindex(b"\n", 0, -1) + 1
    path.write_bytes(content[: start + 100])
    return content[:start]


@pytest.mark.parametrize("appends", [False, True])
def test_two_sweeps_that_start_on_a_torn_row_leave_all_others_whole(tmp_path, monkeypatch, appends):
    path = tmp_path / "rows.jsonl"
    rows = _sweep(path, 5)
    whole = _torn(path)
    parse = sweep_file._parse

    def and_the_other_is_faster(path):
        content = parse(path)
        monkeypatch.setattr(sweep_file, "_parse", parse)
        sweep_file.repair(path, {})
        if appends:
            sweep_file.append(path, rows[-1])
        return content

    monkeypatch.setattr(sweep_file, "_parse", and_the_other_is_faster)
    found = sweep_file.repair(path, {})
    assert found == read_sweep(path) == (rows if appends else rows[:-1])
    assert path.read_bytes() == whole + (rows[-1].to_json() if appends else b"")


def test_a_row_is_appended_where_another_sweep_was_killed_while_it_wrote(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = _sweep(path, 5)
    whole = _torn(path)
    sweep_file.append(path, rows[-1])
    assert path.read_bytes() == whole + rows[-1].to_json()
    path.write_bytes(path.read_bytes()[:-1])  # a whole row but for its line end
    sweep_file.append(path, rows[0])
    assert path.read_bytes() == whole + rows[-1].to_json() + rows[0].to_json()


@pytest.mark.parametrize("place", ["behind the last", "before its line end", "between", "before the first", "alone"])
def test_zeros_of_a_crash_are_no_rows(tmp_path, place):
    path, zeros = tmp_path / "rows.jsonl", bytes(100)
    rows = _sweep(path, 4)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(
        {
            "behind the last": b"".join(lines) + zeros,
            "before its line end": b"".join(lines)[:-1] + zeros,
            "between": lines[0][:-1] + zeros + b"\n" + zeros + b"".join(lines[1:]),
            "before the first": zeros + b"".join(lines),
            "alone": zeros,
        }[place]
    )
    kept = [] if place == "alone" else rows
    assert read_sweep(path) == kept
    again = _sweep(path, 6)
    assert again[: len(kept)] == kept
    assert read_sweep(path) == again


def test_an_empty_file_made_by_a_check_is_only_removed_while_nobody_has_written_to_it(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    (row, *_) = _sweep(tmp_path / "other.jsonl", 2)
    exists = sweep_file._exists

    def and_the_other_is_faster(path):
        found = exists(path)
        monkeypatch.setattr(sweep_file, "_exists", exists)
        sweep_file.append(path, row)
        return found

    monkeypatch.setattr(sweep_file, "_exists", and_the_other_is_faster)
    sweep_file.check_writable(path)
    assert read_sweep(path) == [row]


def test_a_file_that_another_sweep_only_tried_to_write_holds_no_rows(tmp_path, monkeypatch):
    exists, path = sweep_file._exists, tmp_path / "rows.jsonl"

    def and_gone(asked: Path) -> bool:
        path.touch()
        found = exists(asked)
        path.unlink()
        return found

    monkeypatch.setattr(sweep_file, "_exists", and_gone)
    assert sweep_file.repair(path, {}) == []


@pytest.mark.parametrize("room", [0, 150])
def test_a_disk_that_runs_full_costs_no_row_that_was_measured_before(tmp_path, room):
    path = tmp_path / "rows.jsonl"
    rows = _sweep(path, 4)
    whole = path.read_bytes()
    said = in_child(lambda: _sweep(path, 9), len(whole) + room)
    assert said.startswith(f"SweepError: {path} cannot be written (")
    assert "make room" in said
    assert path.read_bytes() == whole
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]
    assert _sweep(path, 6)[:4] == rows


@pytest.mark.parametrize("name", ["n" * 300 + ".jsonl", "a\0b.jsonl"])
def test_names_that_no_file_can_have(tmp_path, name):
    supernet = make_supernet("vit")
    with pytest.raises(SweepError, match=r"cannot be (written|read) .*give"):
        sweep(supernet, [supernet.full], make_split("vit"), tmp_path / name, progress=False)
