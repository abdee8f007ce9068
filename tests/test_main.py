"""The commands behind the Makefile."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.federated import LABELS, learnable_split, make_even_supernet, make_processor, one_thread  # noqa: F401

from raffm_utils import __main__ as commands
from raffm_utils import data, plotting, search
from raffm_utils import figures as redraw
from raffm_utils.errors import DataError, TrainingError
from raffm_utils.evaluation import read_sweep
from raffm_utils.federated import named_checkpoints as recipes
from raffm_utils.search import AccuracyPredictor
from raffm_utils.space import Budget
from raffm_utils.supernet import ElasticSpec, checkpoints


@pytest.fixture
def project(tmp_path, monkeypatch) -> SimpleNamespace:
    """A tiny bundled checkpoint and made-up data, with folders of their own for all that is written."""
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    supernet = make_even_supernet(**names)
    spec = replace(supernet.spec, provenance={"dataset": "made_up"})
    bundled = tmp_path / "checkpoints"
    bundled.mkdir()
    (bundled / "published.json").write_text("{}", encoding="utf-8")
    checkpoints.save(bundled / "tiny", supernet.model, spec, make_processor(), torch.float32)

    def load_split(name, split, *, limit=None, processor=None):
        assert name == "made_up"
        assert split in ("test", "validation")
        assert processor is not None
        return learnable_split(limit or 60, 3, split)

    monkeypatch.setattr(checkpoints, "BUNDLED_FOLDER", bundled)
    monkeypatch.setattr(data, "load_split", load_split)
    monkeypatch.setattr(plotting, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(redraw, "RUNS_FOLDER", tmp_path / "runs")
    monkeypatch.setattr(redraw, "HETEROGENEITY", tmp_path / "heterogeneity.json")
    sweep_file = tmp_path / "figures" / "data" / "tiny.jsonl"
    return SimpleNamespace(figures=tmp_path / "figures", runs=tmp_path / "runs", bundled=bundled, sweep=sweep_file)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- train ---


def test_train_without_a_name_lists_the_names(capsys):
    assert commands.main(["train"]) == 0
    printed = capsys.readouterr().out
    assert "make train NAME=" in printed
    for name in recipes.RECIPES:
        assert f"  {name}\n" in printed


def test_train_with_an_unknown_name_ends_with_a_message_and_no_traceback():
    ended = subprocess.run(
        [sys.executable, "-m", "raffm_utils", "train", "nope"], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert ended.stderr.strip().startswith("TrainingError: no recipe 'nope': known are ")
    assert next(iter(recipes.RECIPES)) in ended.stderr


def test_train_says_what_it_wrote(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(recipes, "train", lambda name, folder: (folder or tmp_path) / name)
    assert commands.main(["train", "tiny"]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'tiny'}\n"
    assert commands.main(["train", "tiny", "--folder", str(tmp_path / "other")]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'other' / 'tiny'}\n"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [(TrainingError("too bad"), 1, "TrainingError: too bad"), (KeyboardInterrupt(), 130, "goes on from here")],
)
def test_stops_are_exit_codes(monkeypatch, capsys, error: BaseException, code: int, message: str):
    def fail(name, folder):
        raise error

    monkeypatch.setattr(recipes, "train", fail)
    assert commands.main(["train", "tiny"]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["dance"], ["figures", "--submodels", "many"]])
def test_wrong_arguments_are_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        commands.main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m raffm_utils" in capsys.readouterr().err


# --- sweep ---


def test_sweep_writes_the_ends_and_an_even_spread(project):
    assert commands.main(["sweep", "tiny", "--submodels", "16", "--examples", "40"]) == 0
    rows, space = read_sweep(project.sweep), make_even_supernet().space
    assert [rows[0].config, rows[1].config] == [space.largest(), space.smallest()]
    assert len(rows) == len({row.config for row in rows})
    assert 14 <= len(rows) <= 18  # what is drawn may be one of the ends
    assert {(row.checkpoint, row.dataset, row.split, row.examples) for row in rows} == {("tiny", "made_up", "test", 40)}
    between = [row.parameters for row in rows[2:]]
    assert between != sorted(between), "in random order: what there is after a stop is of every size"
    least, most = space.reach("parameters")
    assert np.histogram(between, bins=4, range=(least, most))[0].min() >= 2
    assert files(project.figures) == {"data/tiny.jsonl"}


def test_sweep_of_the_validation_split_has_a_file_of_its_own(project):
    assert commands.main(["sweep", "tiny", "--submodels", "2", "--examples", "40", "--split", "validation"]) == 0
    assert files(project.figures) == {"data/tiny-validation.jsonl"}
    assert {row.split for row in read_sweep(project.figures / "data" / "tiny-validation.jsonl")} == {"validation"}


def test_sweep_of_the_validation_split_ends_with_what_is_promising_by_its_rows(project, monkeypatch):
    asked, find = [], search.promising_submodels

    def watched(space, predictor, number, rng, metric):
        asked.append((predictor.submodels, find(space, predictor, number, rng, metric)))
        return asked[-1][1]

    monkeypatch.setattr(search, "promising_submodels", watched)
    arguments = ["sweep", "tiny", "--submodels", "60", "--examples", "40", "--split", "validation"]
    path = project.sweep.with_name("tiny-validation.jsonl")
    assert commands.main(arguments) == 0
    configs, whole, turns = [row.config for row in read_sweep(path)], path.read_bytes(), list(asked)
    spread = turns[0][0]
    assert 50 < spread <= 62 < len(configs) <= spread + 15
    assert [seen for seen, _ in turns] == sorted(seen for seen, _ in turns)
    assert set(configs[spread:]) <= {config for _, found in turns for config in found} <= set(configs)
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[: spread + 1]))
    assert commands.main(arguments) == 0
    assert [row.config for row in read_sweep(path)] == configs


def test_sweep_goes_on_where_it_stopped(project, monkeypatch):
    arguments = ["sweep", "tiny", "--submodels", "4", "--examples", "40"]
    assert commands.main(arguments) == 0
    whole = project.sweep.read_bytes()
    lines = whole.splitlines(keepends=True)
    project.sweep.write_bytes(b"".join(lines[:2]) + lines[2][:50])  # the third row was being written
    assert commands.main(arguments) == 0
    again = project.sweep.read_bytes()
    assert again.splitlines()[:2] == whole.splitlines()[:2]
    stored = [(row.config, row.accuracy) for row in read_sweep(project.sweep)]
    project.sweep.write_bytes(whole)
    assert stored == [(row.config, row.accuracy) for row in read_sweep(project.sweep)]
    assert commands.main(arguments) == 0
    assert project.sweep.read_bytes() == whole, "all is done: nothing is added"


def test_sweep_refuses_to_mix_examples(project, capsys):
    assert commands.main(["sweep", "tiny", "--submodels", "1", "--examples", "40"]) == 0
    before = project.sweep.read_bytes()
    assert commands.main(["sweep", "tiny", "--submodels", "1", "--examples", "30"]) == 1
    assert "SweepError: " in capsys.readouterr().err
    assert project.sweep.read_bytes() == before


def test_sweep_of_a_checkpoint_that_does_not_say_its_data_is_refused(project, capsys):
    folder = project.bundled / "silent"
    supernet = make_even_supernet()
    checkpoints.save(folder, supernet.model, supernet.spec, make_processor(), torch.float32)
    assert commands.main(["sweep", str(folder)]) == 1
    assert "CheckpointError" in (said := capsys.readouterr().err)
    assert '"provenance": {"dataset"' in said


def test_sweep_of_an_unknown_name_is_refused(project, capsys):
    assert commands.main(["sweep", "nope"]) == 1
    assert "no checkpoint 'nope'" in capsys.readouterr().err


def test_sweep_of_the_ends_measures_three_sizes_on_the_whole_split(project, capsys):
    assert commands.main(["sweep", "tiny", "--ends"]) == 0
    assert files(project.figures) == {"data/ends/tiny.jsonl"}
    rows, supernet = read_sweep(project.figures / "data" / "ends" / "tiny.jsonl"), make_even_supernet()
    assert [rows[0].config, rows[2].config] == [supernet.space.largest(), supernet.space.smallest()]
    assert 0.45 < rows[1].parameters / rows[0].parameters <= 0.5
    assert {(row.split, row.examples) for row in rows} == {("test", 60)}
    printed = capsys.readouterr().out
    for row in rows:
        assert f"{row.accuracy:.2%} ({row.low:.2%} to {row.high:.2%}) of 60 test examples" in printed


def test_sweep_of_the_front_measures_what_is_chosen_on_validation_and_figures_show_it(project, capsys, monkeypatch):
    validation = ["sweep", "tiny", "--submodels", "40", "--examples", "40", "--split", "validation"]
    assert commands.main(validation) == 0
    assert commands.main(["sweep", "tiny", "--front", "4"]) == 0
    rows, space = read_sweep(project.figures / "data" / "front" / "tiny.jsonl"), make_even_supernet().space
    assert rows[0].config == space.smallest()
    assert {(row.split, row.examples) for row in rows} == {("test", 60)}
    assert [row.parameters for row in rows] == sorted(row.parameters for row in rows)
    assert f"M parameters: {rows[-1]:.2%} of 60 test examples" in capsys.readouterr().out
    predictor = AccuracyPredictor.fit(read_sweep(project.sweep.with_name("tiny-validation.jsonl")), space)
    rng = np.random.default_rng(0)
    for row in rows:
        others = [space.sample(Budget(max_parameters=row.parameters), rng) for _ in range(20)]
        best = predictor.predict(row.config).accuracy
        assert all(predictor.predict(config).accuracy <= best + 1e-9 for config in others)
    drawn = []
    plot = plotting.plot_accuracy_vs_parameters
    monkeypatch.setattr(plotting, "plot_accuracy_vs_parameters", lambda r, **k: drawn.append(k) or plot(r, **k))
    assert commands.main(["sweep", "tiny", "--submodels", "2", "--examples", "40"]) == 0
    assert commands.main(FIGURES) == 0
    assert drawn[0]["front"] == rows


def test_figures_compare_what_was_measured_on_the_same_examples(project, monkeypatch):
    for command in (["--split", "validation", "--submodels", "40"], ["--submodels", "4"], ["--front", "3"]):
        assert commands.main(["sweep", "tiny", *command, *(["--examples", "40"] * (command[0] != "--front"))]) == 0
    assert commands.main(["sweep", "tiny", "--front", "3", "--examples", "60"]) == 0
    front = project.figures / "data" / "front"
    assert {row.examples for row in read_sweep(front / "tiny.jsonl")} == {40}
    assert {row.examples for row in read_sweep(front / "tiny-60.jsonl")} == {60}
    drawn = []
    plot = plotting.plot_accuracy_vs_parameters
    monkeypatch.setattr(plotting, "plot_accuracy_vs_parameters", lambda r, **k: drawn.append((r, k)) or plot(r, **k))
    assert commands.main(["figures", "--submodels", "3"]) == 0
    rows, given = drawn[0]
    assert {row.examples for row in [*rows, *given["live"], *given["front"], given["full"]]} == {40}


# --- figures ---

FIGURES = ["figures", "--submodels", "3", "--examples", "40", "--seed", "5"]


def test_figures_draw_a_live_sample_over_the_stored_sweep(project, capsys, monkeypatch):
    assert commands.main(["sweep", "tiny", "--submodels", "4", "--examples", "40"]) == 0
    before, drawn = project.sweep.read_bytes(), []

    def watch(rows, *arguments, **keywords):
        drawn.append((rows, keywords))
        return plot(rows, *arguments, **keywords)

    plot = plotting.plot_accuracy_vs_parameters
    monkeypatch.setattr(plotting, "plot_accuracy_vs_parameters", watch)
    capsys.readouterr()
    assert commands.main(FIGURES) == 0
    printed = capsys.readouterr().out
    count = make_even_supernet().space.count()
    assert f"tiny: {count:,} submodels in the space" in printed
    assert "--seed 5" in printed
    stem = "tiny_performance_vs_params"
    assert files(project.figures) == {"data/tiny.jsonl", f"{stem}.png", f"{stem}.svg"}
    for end, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        path = project.figures / f"{stem}.{end}"
        assert f"wrote {path}" in printed
        assert path.read_bytes().startswith(start)
    assert project.sweep.read_bytes() == before, "the live sample is kept apart"
    assert files(project.runs) == {"live-tiny-40-5.jsonl"}
    live = read_sweep(project.runs / "live-tiny-40-5.jsonl")
    assert len(live) == 3
    assert {row.seed for row in live} == {5}
    ((rows, keywords),) = drawn
    assert rows == read_sweep(project.sweep)
    assert keywords["live"] == live
    assert keywords["full"].config == make_even_supernet().space.largest()
    assert keywords["smallest"].config == make_even_supernet().space.smallest()
    assert keywords["count"] == count


def test_figures_go_on_where_they_stopped(project):
    assert commands.main(["sweep", "tiny", "--submodels", "2", "--examples", "40"]) == 0
    assert commands.main(FIGURES) == 0
    path = project.runs / "live-tiny-40-5.jsonl"
    whole, png = path.read_bytes(), (project.figures / "tiny_performance_vs_params.png").read_bytes()
    assert commands.main(FIGURES) == 0
    assert path.read_bytes() == whole
    assert (project.figures / "tiny_performance_vs_params.png").read_bytes() == png, "the same drawing again"
    path.write_bytes(whole.splitlines(keepends=True)[0])
    assert commands.main(FIGURES) == 0
    assert path.read_bytes().splitlines()[0] == whole.splitlines()[0]
    assert len(read_sweep(path)) == 3


def test_figures_without_a_seed_draw_a_new_sample_each_time(project):
    assert commands.main(["sweep", "tiny", "--submodels", "2", "--examples", "40"]) == 0
    for _ in range(2):
        assert commands.main(["figures", "--submodels", "2", "--examples", "40"]) == 0
    assert len(files(project.runs)) == 2


def test_figures_leave_out_rows_of_other_weights(project, capsys, monkeypatch):
    assert commands.main(["sweep", "tiny", "--submodels", "2", "--examples", "40"]) == 0
    rows = len(read_sweep(project.sweep))
    supernet = make_even_supernet(seed=1, id2label=dict(enumerate(LABELS)))
    spec = ElasticSpec.from_file(project.bundled / "tiny" / checkpoints.SPACE_FILE)
    checkpoints.save(project.bundled / "tiny", supernet.model, spec, make_processor(), torch.float32)
    drawn = []
    plot = plotting.plot_accuracy_vs_parameters
    monkeypatch.setattr(plotting, "plot_accuracy_vs_parameters", lambda r, **k: drawn.append(r) or plot(r, **k))
    assert commands.main(FIGURES) == 0
    assert f"{rows} rows belong to other weights" in capsys.readouterr().out
    assert drawn == [[]]


def test_figures_draw_stored_sweeps_whose_checkpoint_is_not_bundled(project, capsys, monkeypatch):
    assert commands.main(["sweep", "tiny", "--submodels", "3", "--examples", "40"]) == 0
    other = project.sweep.with_name("elsewhere.jsonl")
    other.write_bytes(project.sweep.read_bytes())
    assert commands.main(["sweep", "tiny", "--submodels", "2", "--examples", "40", "--split", "validation"]) == 0
    drawn = []
    plot = plotting.plot_accuracy_vs_parameters
    monkeypatch.setattr(plotting, "plot_accuracy_vs_parameters", lambda r, **k: drawn.append((r, k)) or plot(r, **k))
    assert commands.main(FIGURES) == 0
    assert "elsewhere: drawn from its" in capsys.readouterr().out
    assert f"{(stem := 'elsewhere_performance_vs_params')}.png" in files(project.figures)
    assert "tiny-validation_performance_vs_params.png" not in files(project.figures)
    rows, keywords = drawn[1]
    assert {row.config for row in rows} == {row.config for row in read_sweep(other)}
    assert keywords["full"].config == make_even_supernet().space.largest()
    assert keywords["smallest"].config == make_even_supernet().space.smallest()
    assert (project.figures / f"{stem}.svg").read_text().count("<path") > 3


@pytest.mark.parametrize(("dataset", "metric"), [("cifar10", "parameters"), ("sst2", "encoder_parameters")])
def test_stored_sweeps_are_drawn_over_the_size_that_their_data_ask_for(project, monkeypatch, dataset, metric):
    assert commands.main(["sweep", "tiny", "--submodels", "3", "--examples", "40"]) == 0
    text = project.sweep.read_text().replace('"dataset": "made_up"', f'"dataset": "{dataset}"')
    project.sweep.with_name("elsewhere.jsonl").write_text(text)
    drawn = []
    plot = plotting.plot_accuracy_vs_parameters
    monkeypatch.setattr(plotting, "plot_accuracy_vs_parameters", lambda r, **k: drawn.append(k) or plot(r, **k))
    assert commands.main(FIGURES) == 0
    assert [keywords["metric"] for keywords in drawn] == ["parameters", metric]


def test_the_ends_of_a_stored_sweep_are_shown_where_they_were_measured_on_more(project, monkeypatch):
    assert commands.main(["sweep", "tiny", "--submodels", "3", "--examples", "40"]) == 0
    assert commands.main(["sweep", "tiny", "--ends"]) == 0
    (project.figures / "data" / "ends" / "tiny.jsonl").rename(project.figures / "data" / "ends" / "elsewhere.jsonl")
    project.sweep.with_name("elsewhere.jsonl").write_bytes(project.sweep.read_bytes())
    drawn = []
    plot = plotting.plot_accuracy_vs_parameters
    monkeypatch.setattr(plotting, "plot_accuracy_vs_parameters", lambda r, **k: drawn.append(k) or plot(r, **k))
    assert commands.main(FIGURES) == 0
    assert [drawn[1][size].examples for size in ("full", "smallest")] == [60, 60]
    assert drawn[1]["full"].parameters > drawn[1]["smallest"].parameters


def test_figures_of_a_checkpoint_whose_data_are_not_here_are_drawn_from_stored_rows(project, monkeypatch, capsys):
    assert commands.main(["sweep", "tiny", "--submodels", "3", "--examples", "40"]) == 0

    def load_split(*_, **__):
        raise DataError("no test split: go online")

    monkeypatch.setattr(data, "load_split", load_split)
    assert commands.main(FIGURES) == 0
    printed = capsys.readouterr().out
    assert "tiny: no fresh sample: no test split: go online" in printed
    assert "tiny: drawn from its" in printed
    assert "tiny_performance_vs_params.png" in files(project.figures)


def test_figures_lay_two_settings_over_each_other_and_show_what_heterogeneity_costs(project, monkeypatch, capsys):
    assert commands.main(["sweep", "tiny", "--submodels", "6", "--examples", "40"]) == 0
    for name in redraw.SETTINGS.values():
        project.sweep.with_name(f"{name}.jsonl").write_bytes(project.sweep.read_bytes())
    sizes = {size: {"parameters": 9, "accuracy": 0.8, "low": 0.7, "high": 0.9} for size in ("full", "half", "smallest")}
    one = {"recipe": {"participants": 4}, "accuracy": sizes, "bytes_down": [5e6], "bytes_up": [4e6]}
    results = {"large, IID": one, "small, IID": one}
    redraw.HETEROGENEITY.write_text(json.dumps(results), encoding="utf-8")
    assert commands.main(FIGURES) == 0
    assert {"vit_cifar10_settings.png", "heterogeneity.png", "heterogeneity.svg"} <= files(project.figures)
    sweeps, ends = redraw.stored_settings()
    assert list(sweeps) == ["Large", "Small"]
    assert sweeps["Large"] == read_sweep(project.sweep)
    assert ends == {"Large": [], "Small": []}


def test_figures_without_a_sweep_or_a_checkpoint_say_so(project, capsys, monkeypatch, tmp_path):
    assert commands.main(FIGURES) == 1
    assert "tiny.jsonl does not exist" in capsys.readouterr().err
    monkeypatch.setattr(checkpoints, "BUNDLED_FOLDER", tmp_path / "empty")
    assert commands.main(FIGURES) == 1
    assert "CheckpointError: no checkpoint in" in capsys.readouterr().err
