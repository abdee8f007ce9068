"""A whole federation on one machine: it learns, and it goes on after any kind of stop as if nothing had been."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_supernet
from helpers.federated import RECIPE, learnable_split, make_even_supernet, one_thread, run_tiny  # noqa: F401
from helpers.processes import in_child
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from raffm_utils import writing
from raffm_utils.errors import TrainingError
from raffm_utils.evaluation import evaluate
from raffm_utils.federated import Recipe, RoundResult, Update, simulation
from raffm_utils.supernet import Supernet

Result = tuple[Supernet, list[RoundResult]]
LOGGED = ["round", "learning_rate", "clients", "loss", "full", "smallest"]  # names in the log, in this order


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Supernet, list[RoundResult], Path]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    supernet, rows = run_tiny(folder)
    torch.set_num_threads(threads)
    return supernet, rows, folder


def assert_same(result: Result, expected: Result) -> None:
    assert result[1] == expected[1]
    ours, theirs = (dict(part[0].model.named_parameters()) for part in (result, expected))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rounds_stored(folder: Path) -> int:
    with safe_open(folder / simulation.STATE_FILE, "pt") as file:
        return len(json.loads(file.metadata()["rows"]))


def test_a_federation_learns(uninterrupted):
    supernet, rows, _ = uninterrupted
    unseen = learnable_split(200, 7, "validation")
    for config in (supernet.space.largest(), supernet.space.smallest()):
        before = evaluate(make_even_supernet().extract(config), unseen)
        after = evaluate(supernet.extract(config), unseen)
        assert after.low > 0.5, "well above the chance of one in five"
        assert after.accuracy > before.accuracy + 0.2
    assert rows[-1].loss < rows[0].loss


def test_every_round_has_a_row_of_validation_metrics(uninterrupted):
    supernet, rows, folder = uninterrupted
    assert [row.round for row in rows] == list(range(1, RECIPE.rounds + 1))
    assert [row.clients for row in rows] == [RECIPE.participants] * RECIPE.rounds
    validation = learnable_split(100, 2, "validation")
    for name, config in (("full", supernet.space.largest()), ("smallest", supernet.space.smallest())):
        assert getattr(rows[-1], name) == evaluate(supernet.extract(config), validation).accuracy
    lines = [json.loads(line) for line in (folder / simulation.LOG_FILE).read_text().splitlines()]
    assert rows == [RoundResult(**line) for line in lines]
    assert [list(line) for line in lines] == [LOGGED] * RECIPE.rounds


def test_looking_at_every_third_round_changes_no_weight_and_a_stopped_run_goes_on_from_there(
    tmp_path, monkeypatch, uninterrupted
):
    local_update, calls = simulation.local_update, []
    watched = {"middle": make_even_supernet().space.sample(None, np.random.default_rng(3))}

    def stop_in_the_fifth_round(*arguments):
        calls.append(arguments)
        if len(calls) > 4 * RECIPE.participants:
            raise Stop
        return local_update(*arguments)

    monkeypatch.setattr(simulation, "local_update", stop_in_the_fifth_round)
    with pytest.raises(Stop):
        run_tiny(tmp_path, workers=1, every=3, watched=watched)
    assert rounds_stored(tmp_path) == 3
    monkeypatch.setattr(simulation, "local_update", local_update)
    supernet, rows = run_tiny(tmp_path, every=3, watched=watched)
    assert [row.round for row in rows if row.full is not None] == [3, 6, RECIPE.rounds]
    for row, expected in zip(rows, uninterrupted[1], strict=True):
        assert (row.loss, row.learning_rate) == (expected.loss, expected.learning_rate)
        assert (row.full, row.smallest) in ((expected.full, expected.smallest), (None, None))
        assert set(row.watched) == ({"middle"} if row.full is not None else set())
    assert_same((supernet, []), (uninterrupted[0], []))
    middle = evaluate(supernet.extract(watched["middle"]), learnable_split(100, 2, "validation"))
    assert rows[-1].watched["middle"] == middle.accuracy
    lines = [json.loads(line) for line in (tmp_path / simulation.LOG_FILE).read_text().splitlines()]
    assert [RoundResult(**line) for line in lines] == rows


def test_the_network_of_a_run_is_the_mean_over_its_last_rounds(tmp_path, monkeypatch, uninterrupted):
    stored, save = [], simulation._save

    def watch(folder, identity, rows, kept):
        stored.append({name: tensor.clone() for name, tensor in kept["weights"].items()})
        save(folder, identity, rows, kept)

    monkeypatch.setattr(simulation, "_save", watch)
    last = run_tiny(tmp_path, recipe=replace(RECIPE, average_rounds=1))[0]
    for name, weight in last.model.named_parameters():
        assert torch.equal(weight, stored[-1][name])
        mean = torch.stack([state[name] for state in stored[-RECIPE.average_rounds :]]).mean(0)
        assert torch.allclose(uninterrupted[0].model.get_parameter(name), mean, atol=1e-6), name


def test_learning_rate_falls_as_a_cosine_and_stays_at_its_final_share():
    recipe = replace(
        RECIPE, rounds=14, cosine_rounds=10, cooldown_rounds=0, learning_rate=2.0, final_learning_rate_share=0.1
    )
    rates = [simulation.learning_rate(recipe, number) for number in range(14)]
    assert rates == sorted(rates, reverse=True)
    assert [rates[i] for i in (0, 5, 10, 13)] == pytest.approx([2.0, 1.1, 0.2, 0.2])


def test_learning_rate_cools_down_to_nothing_in_the_last_rounds():
    recipe = replace(RECIPE, rounds=10, cosine_rounds=20, cooldown_rounds=0)
    cooled = replace(recipe, cooldown_rounds=4)
    shares = [simulation.learning_rate(cooled, i) / simulation.learning_rate(recipe, i) for i in range(11)]
    assert shares == pytest.approx([1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])


def test_metrics_are_measured_on_validation_and_training_uses_train_alone(tmp_path, monkeypatch):
    measured, trained = [], []

    def watch_evaluate(model, data, **kwargs):
        measured.append((data.split, len(data)))
        return evaluate(model, data, **kwargs)

    def watch_update(own, task, data, recipe):
        trained.append((data.split, len(data)))
        return local_update(own, task, data, recipe)

    local_update = simulation.local_update
    monkeypatch.setattr(simulation, "evaluate", watch_evaluate)
    monkeypatch.setattr(simulation, "local_update", watch_update)
    run_tiny(tmp_path, recipe=replace(RECIPE, rounds=2))
    assert measured == [("validation", 100)] * 4
    assert trained == [("train", 240 // RECIPE.clients)] * 2 * RECIPE.participants


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_nothing(tmp_path, uninterrupted, workers: int):
    assert_same(run_tiny(tmp_path, workers=workers), uninterrupted)


def test_the_number_of_threads_comes_back_after_training(tmp_path):
    torch.set_num_threads(2)
    run_tiny(tmp_path, recipe=replace(RECIPE, rounds=1, clients=3))
    assert torch.get_num_threads() == 2


class Stop(BaseException):
    """Stands for anything that ends a run, unlike an error of one client."""


def test_a_run_interrupted_in_a_round_goes_on_bit_for_bit(tmp_path, monkeypatch, uninterrupted):
    local_update, calls = simulation.local_update, []

    def fail_in_the_third_round(*arguments):
        calls.append(arguments)
        if len(calls) == 2 * RECIPE.participants + 2:
            raise Stop
        return local_update(*arguments)

    monkeypatch.setattr(simulation, "local_update", fail_in_the_third_round)
    with pytest.raises(Stop):
        run_tiny(tmp_path)
    assert rounds_stored(tmp_path) == 2
    monkeypatch.setattr(simulation, "local_update", local_update)
    assert_same(run_tiny(tmp_path), uninterrupted)


@pytest.mark.parametrize(("number", "in_place"), [(3, False), (3, True), (RECIPE.rounds, True)])
def test_a_run_stopped_while_it_saves_goes_on_bit_for_bit(tmp_path, monkeypatch, uninterrupted, number, in_place):
    """Whether the new state was in place already, but not the log, or was not; in the last round too."""
    replace_file, calls = writing.os.replace, []

    def stop(source, target):
        if target.name != simulation.STATE_FILE:
            return replace_file(source, target)
        calls.append(target)
        if len(calls) < number or in_place:
            replace_file(source, target)
        if len(calls) == number:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(writing.os, "replace", stop)
        with pytest.raises(Stop):
            run_tiny(tmp_path)
    assert rounds_stored(tmp_path) == (number if in_place else number - 1)
    assert_same(run_tiny(tmp_path), uninterrupted)
    log = simulation.LOG_FILE
    assert (tmp_path / log).read_text() == (uninterrupted[2] / log).read_text()


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from helpers.federated import RECIPE, run_tiny
from raffm_utils.federated import simulation
local_update, calls = simulation.local_update, []
def kill(*arguments):
    calls.append(arguments)
    if len(calls) == 2 * RECIPE.participants + 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return local_update(*arguments)
simulation.local_update = kill
run_tiny(Path(sys.argv[2]))
"""


FC2 = "vit.layers.1.mlp.fc2.weight"


def _raise(update: Update) -> Update:
    raise OSError("the battery is empty")


def _with(change: Callable[[torch.Tensor], Any]) -> Callable[[Update], Update]:
    return lambda update: replace(update, state={**update.state, FC2: change(update.state[FC2])})


HARM: dict[str, tuple[Callable[[Update], Any], str]] = {
    "nan": (_with(lambda w: w * float("nan")), "fc2.weight is not finite"),
    "shape": (_with(lambda w: w[:, 1:]), "fc2.weight of shape"),
    "names": (lambda u: replace(u, state={n: w for n, w in u.state.items() if n != FC2}), "other parameters"),
    "whole numbers": (_with(lambda w: (10 * w).to(torch.int8)), "fc2.weight is torch.int8"),
    "doubles": (_with(lambda w: w.double()), "fc2.weight is torch.float64"),
    "sparse": (_with(lambda w: w.to_sparse()), "torch.sparse_coo"),
    "no tensor": (_with(lambda w: w.numpy()), "fc2.weight is a ndarray, not a tensor"),
    "huge": (_with(lambda w: w * 0 + 1e30), "fc2.weight moved by 1e+30, more than its steps can"),
    "a thousand times": (_with(lambda w: 1000 * w), "fc2.weight moved by"),
    "weight": (lambda u: replace(u, weight=1e6), "weight 1000000.0, but it said 1.0"),
    "no weight": (lambda u: replace(u, weight=float("nan")), "weight nan"),
    "loss": (lambda u: replace(u, loss=float("nan")), "loss nan"),
    "examples": (lambda u: replace(u, examples=-5), "examples -5"),
    "widths": (lambda u: replace(u, config=make_even_supernet().space.smallest()), "not what it was sent"),
    "nothing": (lambda u: None, "a NoneType instead of an update"),
    "raises": (_raise, "OSError: the battery is empty"),
}


@pytest.mark.parametrize("harm", HARM)
def test_an_update_that_cannot_be_used_is_refused_and_named(tmp_path, monkeypatch, capsys, harm: str):
    """The model goes on as if that client had not been there."""
    local_update = simulation.local_update
    recipe = replace(RECIPE, rounds=2, server_momentum=0.0, average_rounds=1)
    victim = simulation.plan_round(make_even_supernet(), recipe, 1)[2][0]

    def harmed(own, task, data, recipe):
        update = local_update(own, task, data, recipe)
        return HARM[harm][0](update) if task.seed[1:] == (1, victim) else update

    monkeypatch.setattr(simulation, "local_update", harmed)
    supernet, rows = run_tiny(tmp_path, recipe=recipe)[:2]
    assert [row.clients for row in rows] == [4, 3]
    assert not rows[0].refused
    assert list(rows[1].refused) == [str(victim)]
    lines = [json.loads(line) for line in (tmp_path / simulation.LOG_FILE).read_text().splitlines()]
    assert [list(line) for line in lines] == [LOGGED, [*LOGGED[:4], "refused", *LOGGED[4:]]]
    assert run_tiny(tmp_path, recipe=recipe)[1] == rows, "read back with the reason"
    assert HARM[harm][1] in rows[1].refused[str(victim)]
    assert f"client {victim} is left out of this round" in capsys.readouterr().out
    assert all(bool(p.isfinite().all()) for p in supernet.model.parameters())

    plan = simulation.plan_round
    monkeypatch.setattr(simulation, "local_update", local_update)
    monkeypatch.setattr(
        simulation, "plan_round", lambda *a: [task for task in plan(*a) if (a[2], task[0]) != (1, victim)]
    )
    without = run_tiny(tmp_path / "without", recipe=recipe)[0]
    for (name, p), q in zip(supernet.model.named_parameters(), without.model.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_a_round_whose_updates_are_all_refused_changes_nothing(tmp_path, monkeypatch):
    local_update = simulation.local_update

    def harmed(*arguments):
        update = local_update(*arguments)
        update.state["classifier.bias"][0] = float("inf")
        return update

    monkeypatch.setattr(simulation, "local_update", harmed)
    supernet, rows = run_tiny(tmp_path, recipe=replace(RECIPE, rounds=1))[:2]
    assert (rows[0].clients, len(rows[0].refused)) == (0, RECIPE.participants)
    for p, q in zip(supernet.model.parameters(), make_even_supernet().model.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_process_is_resumed_bit_for_bit(tmp_path, uninterrupted):
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parents[1]), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert rounds_stored(tmp_path) == 2
    assert_same(run_tiny(tmp_path), uninterrupted)


def test_a_run_that_is_done_is_only_loaded(tmp_path, monkeypatch, uninterrupted):
    def never(*arguments):
        raise AssertionError("nothing is left to train")

    supernet, rows, folder = uninterrupted
    monkeypatch.setattr(simulation, "local_update", never)
    assert_same(run_tiny(folder), (supernet, rows))


def test_a_second_run_in_the_folder_of_one_that_trains_is_refused(tmp_path, monkeypatch):
    local_update, said = simulation.local_update, []

    def meanwhile(*arguments):
        if not said:
            with pytest.raises(TrainingError, match=f"in use by process {os.getpid()} ") as told:
                run_tiny(tmp_path, recipe=replace(few, seed=7))
            said.append(str(told.value))
        return local_update(*arguments)

    few = replace(RECIPE, rounds=2)
    monkeypatch.setattr(simulation, "local_update", meanwhile)
    run_tiny(tmp_path, recipe=few, workers=1)
    assert said
    assert names_in(tmp_path) == [simulation.EARLIER_FILE, simulation.LOG_FILE, simulation.STATE_FILE]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def turn_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [cut, turn_a_bit, lambda path: path.write_bytes(b""), Path.unlink])
def test_a_run_whose_last_state_is_damaged_goes_on_from_the_one_before(tmp_path, capsys, uninterrupted, harm):
    shutil.copytree(uninterrupted[2], tmp_path, dirs_exist_ok=True)
    last, earlier = tmp_path / simulation.STATE_FILE, tmp_path / simulation.EARLIER_FILE
    harm(last)
    harmed = last.read_bytes() if last.exists() else b""
    assert_same(run_tiny(tmp_path), uninterrupted)
    said = capsys.readouterr()
    assert f"going on from {earlier}, after round {RECIPE.rounds - 1}" in said.out + said.err
    assert str(last) in said.out + said.err
    damaged = tmp_path / simulation.DAMAGED_FILE
    assert (damaged.read_bytes() if damaged.exists() else b"") == harmed
    assert_same(run_tiny(tmp_path), uninterrupted)
    assert "going on" not in capsys.readouterr().out


def test_a_disk_without_room_for_a_state_is_told_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(simulation, "local_update", lambda *arguments: pytest.fail("trained"))
    free = shutil.disk_usage(tmp_path)._replace(free=200_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(TrainingError, match=rf"{tmp_path}: a state takes .* MB.* 0.2 MB left: make room"):
        run_tiny(tmp_path)
    assert names_in(tmp_path) == []


def test_a_disk_that_runs_full_is_named_and_nothing_is_left(tmp_path):
    assert in_child(lambda: run_tiny(tmp_path, recipe=replace(RECIPE, rounds=1)), 20_000).startswith(
        f"TrainingError: {tmp_path} cannot be written ("
    )
    assert names_in(tmp_path) == []


def test_two_damaged_states_are_named_and_left_alone(tmp_path, uninterrupted):
    shutil.copytree(uninterrupted[2], tmp_path, dirs_exist_ok=True)
    for name in (simulation.STATE_FILE, simulation.EARLIER_FILE):
        cut(tmp_path / name)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TrainingError, match=rf"{simulation.STATE_FILE} .*; .*{simulation.EARLIER_FILE} .*: restore"):
        run_tiny(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_last_two_states_are_kept_where_a_file_has_one_name_only(tmp_path, monkeypatch):
    def refuse(new, old):
        raise OSError("no second names here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    run_tiny(tmp_path, recipe=replace(RECIPE, rounds=2))
    assert rounds_stored(tmp_path) == 2
    (tmp_path / simulation.EARLIER_FILE).replace(tmp_path / simulation.STATE_FILE)
    assert rounds_stored(tmp_path) == 1


def test_another_recipe_in_the_same_folder_is_refused(uninterrupted):
    folder = uninterrupted[2]
    before = (folder / simulation.STATE_FILE).read_bytes()
    other = replace(RECIPE, learning_rate=1e-3, dirichlet=0.5)
    with pytest.raises(TrainingError, match=r"another dirichlet, learning_rate: ") as caught:
        run_tiny(folder, recipe=other)
    assert str(folder / simulation.STATE_FILE) in str(caught.value)
    unchanged = set(asdict(RECIPE)) - {"learning_rate", "dirichlet"}
    assert not any(f" {field}" in str(caught.value) for field in unchanged)
    assert (folder / simulation.STATE_FILE).read_bytes() == before


def test_a_run_from_before_an_option_existed_goes_on_without_it(tmp_path, uninterrupted):
    supernet, rows, folder = uninterrupted
    path = tmp_path / simulation.STATE_FILE
    with safe_open(folder / simulation.STATE_FILE, "pt") as file:
        metadata = file.metadata()
    identity = json.loads(metadata["identity"])
    assert identity["recipe"].pop("size_power") == Recipe().size_power
    identity["recipe"]["shrink_rounds"] = 0  # an option that is gone, unused
    del metadata["checksum"]  # which states did not always have
    save_file(load_file(folder / simulation.STATE_FILE), path, {**metadata, "identity": json.dumps(identity)})
    assert_same(run_tiny(tmp_path), (supernet, rows))
    with pytest.raises(TrainingError, match="another size_power: "):
        run_tiny(tmp_path, recipe=replace(RECIPE, size_power=2.0))


def test_another_network_in_the_same_folder_is_refused(uninterrupted):
    folder = uninterrupted[2]
    train, validation = learnable_split(240, 1), learnable_split(100, 2, "validation")
    for other in (make_even_supernet(num_hidden_layers=1), make_supernet(hidden_size=52, space={})):
        before = {name: p.data.clone() for name, p in other.model.named_parameters()}
        with pytest.raises(TrainingError, match=r"another .*(space|network)"):
            simulation.run(other, train, validation, RECIPE, folder)
        assert all(torch.equal(p.data, before[name]) for name, p in other.model.named_parameters())


def test_a_run_belongs_to_its_start_its_slicing_and_its_validation_data(tmp_path):
    def go(folder, supernet=None, validation=None):
        few = learnable_split(60, 2) if validation is None else validation
        return simulation.run(supernet or make_even_supernet(), learnable_split(240, 1), few, recipe, tmp_path / folder)

    recipe = replace(RECIPE, rounds=2)
    rows = go("run")
    assert go("run") == rows, "the same goes on"
    other = make_even_supernet()
    other.model.classifier.bias.data += 1
    contiguous = make_even_supernet()
    contiguous = Supernet(contiguous.model, contiguous.family, replace(contiguous.spec, head_slicing="contiguous"))
    for change, words in (
        ({"supernet": other}, "another start"),
        ({"supernet": contiguous}, "another start"),
        ({"validation": learnable_split(50, 8)}, "another validation"),
    ):
        with pytest.raises(TrainingError, match=words):
            go("run", **change)


def test_a_round_in_which_every_client_fails_changes_nothing(tmp_path, monkeypatch):
    def broken(own, task, data, recipe):
        raise ValueError("broken")

    monkeypatch.setattr(simulation, "local_update", broken)
    supernet, rows = run_tiny(tmp_path, recipe=replace(RECIPE, rounds=2, average_rounds=1))[:2]
    assert [(row.clients, len(row.refused)) for row in rows] == [(0, RECIPE.participants)] * 2
    start = make_even_supernet().model.state_dict()
    assert all(torch.equal(tensor, start[name]) for name, tensor in supernet.model.state_dict().items())
