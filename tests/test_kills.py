"""Kills at random moments: what was reported as done is there, byte for byte, and the next one leaves nothing else.

`RAFFM_KILLS` says how many (25 each); `make torture` takes 200.
"""

import hashlib
import json
import math
import os
import random
import select
import signal
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import make_model, make_split, make_supernet, some_configs
from helpers.federated import RECIPE, learnable_split, make_even_supernet, make_processor
from helpers.processes import begin, end, killed_if_given_up
from safetensors import safe_open
from tqdm.auto import tqdm

from raffm_utils import export_submodel, sweep
from raffm_utils.evaluation import accuracy, read_sweep
from raffm_utils.federated import simulation
from raffm_utils.supernet.checkpoints import save
from raffm_utils.writing import PART_PREFIX

KILLS = int(os.environ.get("RAFFM_KILLS", "25"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork") or not hasattr(signal, "SIGKILL"), reason="this system kills otherwise"),
]
Tell = Callable[[str], object]


class Killer:
    """Starts what is to be killed, and counts; what begins says so, and tells what it has done."""

    def __init__(self, action: Callable[[Tell], object]) -> None:
        self.action, self.moments = action, random.Random(0)
        self.kills = self.behind = 0
        self.seconds = math.inf  # that it takes when it is not killed, at least
        self.start(None)

    def kill(self) -> tuple[list[str], bool]:
        """What was told before a kill at a random moment, and whether the kill came before the end."""
        told, killed = self.start(self.moments.uniform(0, self.seconds))
        self.kills += killed
        return told, killed

    def start(self, seconds: float | None) -> tuple[list[str], bool]:
        told, to_parent = os.pipe()

        def act() -> None:
            tell = lambda text: os.write(to_parent, f"{text}\n".encode())  # noqa: E731
            tell("begun")
            self.action(tell)

        child, answer = begin(act)
        os.close(to_parent)
        with killed_if_given_up(child):
            select.select([told], [], [])
            start = time.monotonic()
            if not select.select([answer], [], [], seconds)[0]:  # it has not ended
                os.kill(child, signal.SIGKILL)
        said = end(child, answer)
        if said:
            self.seconds = min(self.seconds, time.monotonic() - start)
        assert said in ("", "done"), said
        with os.fdopen(told, "rb") as pipe:
            lines = pipe.read().decode().splitlines()
        return lines[1:], said == ""

    def count_behind(self, folder: Path) -> None:
        """Note whether the last kill has left something behind in a folder."""
        self.behind += any(name.startswith(PART_PREFIX) for name in names_in(folder))

    def report(self, what: str) -> None:
        print(f"{what}: {self.kills} kills, of which {self.behind} came while something was written")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_child_that_is_killed_within_a_progress_bar_leaves_the_bars_of_the_others_free():
    locks = tqdm.get_lock().locks

    def die() -> None:
        tqdm.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    assert end(*begin(die)) == ""
    for lock in locks:
        assert lock.acquire(False)
        lock.release()


def test_a_sweep_loses_no_row(tmp_path):
    supernet, split = make_supernet("vit"), make_split("vit")
    configs = list(dict.fromkeys(some_configs(supernet, 40)))
    folder, append = tmp_path / "0", accuracy.append

    def go_on(tell: Tell) -> None:
        def and_tell(path: Path, row) -> None:
            append(path, row)
            tell(f"{path.stat().st_size} {digest(path.read_bytes())}")

        accuracy.append = and_tell
        sweep(supernet, configs, split, folder / "rows.jsonl", progress=False)

    killer = Killer(go_on)
    folder = tmp_path / "1"
    while killer.kills < KILLS:
        told, killed = killer.kill()
        path = folder / "rows.jsonl"
        content = path.read_bytes() if path.exists() else b""
        for size, wanted in map(str.split, told):
            assert digest(content[: int(size)]) == wanted
        killer.behind += bool(content) and not content.endswith(b"\n")
        rows = read_sweep(path) if content else []
        assert [row.config for row in rows] == configs[: len(rows)]
        if not killed:
            assert len(content.splitlines()) == len(rows) == len(configs)
            assert names_in(folder) == ["rows.jsonl"]
            folder = tmp_path / f"{int(folder.name) + 1}"
    assert [row.config for row in sweep(supernet, configs, split, folder / "rows.jsonl", progress=False)] == configs
    assert names_in(folder) == ["rows.jsonl"]
    assert len((folder / "rows.jsonl").read_bytes().splitlines()) == len(configs)
    killer.report("sweep")


def test_a_training_loses_no_round(tmp_path):
    train, validation = learnable_split(80, 1), learnable_split(20, 2, "validation")
    recipe = replace(RECIPE, rounds=6, participants=2, average_rounds=2)
    folder, keep = tmp_path / "0", simulation._save
    ends: list[str] = []

    def go_on(tell: Tell) -> None:
        def and_tell(folder: Path, *rest) -> None:
            keep(folder, *rest)
            tell(f"{len(rest[1])} {digest((folder / simulation.STATE_FILE).read_bytes())}")

        simulation._save = and_tell
        supernet = make_even_supernet()
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # no bars
            simulation.run(supernet, train, validation, recipe, folder, workers=1)
        tell("end " + digest(b"".join(p.detach().numpy().tobytes() for p in supernet.model.parameters())))

    killer = Killer(go_on)
    folder, states = tmp_path / "1", {}
    while killer.kills < KILLS or not ends:
        told, killed = killer.kill() if killer.kills < KILLS else killer.start(None)
        for what, found in map(str.split, told):
            if what == "end":
                ends.append(found)
            else:
                states[int(what)] = found
        last, earlier = folder / simulation.STATE_FILE, folder / simulation.EARLIER_FILE
        if states or last.exists():
            with safe_open(last, "pt") as file:
                stored = len(json.loads(file.metadata()["rows"]))
            assert stored - max(states, default=0) in (0, 1), "what was not told may be there"
            assert states.setdefault(stored, digest(last.read_bytes())) == digest(last.read_bytes())
        if earlier.exists():
            assert digest(earlier.read_bytes()) in states.values()
        if killed and folder.exists():
            killer.count_behind(folder)
        if not killed:
            assert names_in(folder) == sorted([simulation.EARLIER_FILE, simulation.LOG_FILE, simulation.STATE_FILE])
            assert len((folder / simulation.LOG_FILE).read_text().splitlines()) == recipe.rounds
            folder, states = tmp_path / f"{int(folder.name) + 1}", {}
    assert len(set(ends)) == 1, "the same weights, bit for bit, however often it was killed"
    killer.report("training")


def test_a_save_leaves_the_old_checkpoint_or_the_new(tmp_path):
    supernets = [make_supernet("vit", seed=seed) for seed in (0, 1)]

    def write(folder: Path, number: int) -> None:
        own = supernets[number % 2]
        save(folder, own.model, own.spec, make_processor(), torch.float32)

    def write_on(tell: Tell) -> None:
        for number in range(first, first + 5):
            write(tmp_path / "all" / "mine", number)
            tell(str(number))

    (tmp_path / "all").mkdir()
    for number in (0, 1):
        write(tmp_path / f"{number}", number)
    whole = [content_of(tmp_path / f"{number}") for number in (0, 1)]
    first = 0
    killer = Killer(write_on)
    first = done = 5
    while killer.kills < KILLS:
        told, killed = killer.kill()
        done = max([done, *(int(number) + 1 for number in told)])
        found = content_of(tmp_path / "all" / "mine")
        assert found in (whole[(done - 1) % 2], whole[done % 2]), "the last one told, or the one after it"
        if found == whole[done % 2]:
            done += 1
        first = done
        if killed:
            killer.count_behind(tmp_path / "all")
    write(tmp_path / "all" / "mine", 0)
    assert names_in(tmp_path / "all") == ["mine"]
    assert content_of(tmp_path / "all" / "mine") == whole[0]
    killer.report("checkpoint")


def test_an_export_is_whole_or_not_there(tmp_path):
    model, processor = make_model("vit"), make_processor()

    def write_on(tell: Tell) -> None:
        for number in range(first, first + 3):
            export_submodel(model, tmp_path / f"all/{number:05}", ("safetensors",), processor=processor)
            tell(f"{number:05}")

    (tmp_path / "all").mkdir()
    export_submodel(model, tmp_path / "right", ("safetensors",), processor=processor)
    whole = content_of(tmp_path / "right")
    first = 0
    killer = Killer(write_on)
    while killer.kills < KILLS:
        first += 3
        told, killed = killer.kill()
        exports = [name for name in names_in(tmp_path / "all") if not name.startswith(".")]
        assert set(told) <= set(exports)
        for name in exports[-3:]:
            found = content_of(tmp_path / "all" / name)
            found["README.md"] = found["README.md"].replace(name.encode(), b"right")
            assert found == whole
        if killed:
            killer.count_behind(tmp_path / "all")
    export_submodel(model, tmp_path / "all" / "last", ("safetensors",), processor=processor)
    assert not any(name.startswith(".") for name in names_in(tmp_path / "all"))
    killer.report("export")
