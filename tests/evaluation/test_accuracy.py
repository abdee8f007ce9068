"""Evaluations against values computed by hand, and sweep files that survive what may happen to them."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAMILY_NAMES, TensorSplit, make_split, make_supernet, some_configs

from raffm_utils.errors import (
    CheckpointError,
    DataError,
    ElasticSpaceError,
    SweepError,
)
from raffm_utils.evaluation import SweepRow, compare, evaluate, read_sweep, sweep
from raffm_utils.evaluation import accuracy as evaluation_module
from raffm_utils.space import METRICS, SubmodelConfig, spread_over_size
from raffm_utils.supernet import Supernet, checkpoints

TESTS = Path(__file__).resolve().parents[1]


def _logits(model, data) -> torch.Tensor:
    with torch.inference_mode():
        return model(**data.inputs).logits


@pytest.mark.parametrize("kind", FAMILY_NAMES)
@pytest.mark.parametrize("batch_size", [1, 7, 128])
def test_measures_what_is_computed_by_hand(kind, batch_size):
    supernet = make_supernet(kind)
    data = make_split(kind, examples=23)
    model = supernet.extract(supernet.space.smallest())
    logits, labels = _logits(model, data).double(), data.labels
    predicted = logits.argmax(1)
    hits = int((predicted == labels).sum())
    assert 0 < hits < 23
    loss = sum(math.log(sum(math.exp(v) for v in row)) - row[y] for row, y in zip(logits.tolist(), labels, strict=True))
    scores = []
    for label in set(labels.tolist()) | set(predicted.tolist()):
        both = int(((predicted == label) & (labels == label)).sum())
        scores.append(2 * both / int((predicted == label).sum() + (labels == label).sum()))
    # Wilson: the shares whose distance from the observed one is 1.96 of their own standard deviations
    share, z2 = hits / 23, 1.959963984540054**2
    centre, half = share + z2 / 46, math.sqrt(z2 * (share * (1 - share) / 23 + z2 / (4 * 23**2)))

    measured = evaluate(model, data, batch_size=batch_size)
    assert measured.examples == 23
    assert measured.accuracy == hits / 23
    assert measured.loss == pytest.approx(float(loss) / 23, rel=1e-5)
    assert measured.f1 == pytest.approx(sum(scores) / len(scores))
    assert measured.low == pytest.approx((centre - half) / (1 + z2 / 23))
    assert measured.high == pytest.approx((centre + half) / (1 + z2 / 23))
    assert measured.examples_per_second > 0
    assert set(data.asked[:-1]) <= {batch_size}


@pytest.mark.parametrize("right", [True, False])
def test_intervals_stay_inside_zero_and_one(right):
    supernet = make_supernet("vit")
    data = make_split("vit", examples=9)
    predicted = _logits(supernet.model, data).argmax(1)
    data.labels = predicted if right else (predicted + 1) % 5
    measured = evaluate(supernet.model, data)
    assert measured.accuracy == float(right)
    assert 0 <= measured.low < measured.high <= 1
    assert measured.high - measured.low == pytest.approx(0.2991, abs=1e-3)  # z^2 / (n + z^2)


def test_progress_is_told_after_every_batch():
    calls: list[tuple[int, int]] = []
    evaluate(
        make_supernet("vit").model,
        make_split("vit", examples=10),
        batch_size=4,
        on_progress=lambda *args: calls.append(args),
    )
    assert calls == [(4, 10), (8, 10), (10, 10)]


def test_autocast_is_near_and_only_on_demand():
    model, data = make_supernet("vit").model, make_split("vit", examples=20)
    seen: list[torch.dtype] = []
    model.vit.layers[0].mlp.fc1.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    exact, rough = evaluate(model, data), evaluate(model, data, autocast=True)
    assert seen == [torch.float32, torch.bfloat16]
    assert rough.loss == pytest.approx(exact.loss, rel=0.1)
    assert rough.loss != exact.loss


def test_what_does_not_fit_is_refused_before_any_work():
    supernet = make_supernet("vit")
    model = supernet.extract(supernet.full)
    model.register_forward_pre_hook(lambda *_: pytest.fail("the model was run"))
    data = make_split("vit")
    with pytest.raises(DataError, match="made_up/test"):
        evaluate(model, TensorSplit({"pixel_values": torch.empty(0, 3, 16, 16)}, torch.empty(0, dtype=torch.int64)))
    with pytest.raises(CheckpointError, match=r"5 classes.*made_up has 3"):
        evaluate(model, replace(data, label_names=("a", "b", "c")))
    with pytest.raises(DataError, match="pixel_values"):
        evaluate(model, make_split("bert"))
    model.config.id2label = dict(enumerate("edcba"))
    with pytest.raises(CheckpointError, match="e, d, c, b, a"):
        evaluate(model, data)


def test_logits_that_are_no_numbers_are_named():
    model = make_supernet("vit").extract(make_supernet("vit").full, copy=True)
    with torch.no_grad():
        model.vit.layers[1].mlp.fc1.bias[3] = math.nan
    with pytest.raises(CheckpointError, match="logits of 30 of 30"):
        evaluate(model, make_split("vit"))


# --- spreading over the size axis


@pytest.mark.parametrize("metric", METRICS)
def test_spread_draws_one_in_every_part(metric):
    space = make_supernet("vit").space
    least, most = space.reach(metric)
    configs = spread_over_size(space, 20, np.random.default_rng(0), metric)
    values = [space.cost_of(config, metric) for config in configs]
    assert len(configs) == 20
    assert all(config in space for config in configs)
    places = [math.log(value / least) / math.log(most / least) * 20 for value in values]
    # a part of this small space may be empty, and is then served from beside it
    assert sum(i - 0.01 <= place <= i + 1.01 for i, place in enumerate(places)) >= 17
    assert all(abs(place - i - 0.5) < 3 for i, place in enumerate(places))
    assert places[0] <= 1.01
    assert places[-1] >= 18.99
    assert configs == spread_over_size(space, 20, np.random.default_rng(0), metric)
    assert configs != spread_over_size(space, 20, np.random.default_rng(1), metric)


def test_spread_ends_where_most_parts_are_empty():
    space = make_supernet("vit", space={"residual_hidden_space": [48, 4]}).space
    assert space.count() == 2
    configs = spread_over_size(space, 50, np.random.default_rng(0))
    assert [config.hidden for config in (configs[0], configs[1], configs[-2], configs[-1])] == [4, 4, 48, 48]
    assert {config.hidden for config in configs} == {4, 48}
    alone = make_supernet("vit", space={}).space
    assert spread_over_size(alone, 3, np.random.default_rng(0)) == [alone.largest()] * 3


def test_spread_over_macs_of_a_text_model():
    space = make_supernet("bert").space.under(tokens=16)
    configs = spread_over_size(space, 5, np.random.default_rng(0), "macs")
    values = [space.cost_of(config, "macs") for config in configs]
    assert values == sorted(values)
    for arguments in ((0,), (5, np.random.default_rng(0), "speed")):
        with pytest.raises(ElasticSpaceError):
            spread_over_size(space, *(*arguments, np.random.default_rng(0))[:3])


# --- sweep files


def _sweep(supernet: Supernet, path: Path, count: int = 4, **changes) -> list[SweepRow]:
    configs = changes.pop("configs", None) or some_configs(supernet, count)
    data = changes.pop("data", None) or make_split("vit")
    return sweep(supernet, configs, data, path, progress=False, **changes)


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    """One entry for every evaluation that is really made."""
    made: list[int] = []

    def counting(*args, **kwargs):
        made.append(1)
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(evaluation_module, "evaluate", counting)
    return made


def test_rows_hold_what_was_measured(tmp_path):
    supernet, data = make_supernet("vit"), make_split("vit")
    path = tmp_path / "new" / "folder" / "rows.jsonl"
    configs = some_configs(supernet, 4)
    rows = _sweep(supernet, path, seed=11)
    assert [row.config for row in rows] == configs
    assert rows == read_sweep(path) == read_sweep(str(path))
    for row in rows:
        measured, cost = evaluate(supernet.extract(row.config), data), supernet.cost(row.config)
        for name in ("accuracy", "low", "high", "f1", "examples"):
            assert getattr(row, name) == getattr(measured, name)
        assert row.loss == pytest.approx(measured.loss)
        assert all(getattr(row, metric) == getattr(cost, metric) for metric in METRICS)
        assert (row.fingerprint, row.data_fingerprint) == (supernet.fingerprint(), data.fingerprint)
        assert (row.checkpoint, row.dataset, row.split) == ("vit", "made_up", "test")
        assert (row.tokens, row.seed, row.device) == (5, 11, "cpu")
        assert torch.__version__ in row.libraries
        assert 0 < row.seconds < 60
    content = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["hidden"] for line in content] == [config.hidden for config in configs]
    assert [line["attention"] for line in content] == [list(config.attention) for config in configs]
    assert [line["ffn"] for line in content] == [list(config.ffn) for config in configs]


def test_nothing_is_measured_twice(tmp_path, counted):
    supernet, path = make_supernet("vit"), tmp_path / "rows.jsonl"
    configs = some_configs(supernet, 5)
    first = _sweep(supernet, path, configs=[configs[0], configs[1], configs[0]])
    assert [row.config for row in first] == configs[:2]
    assert len(counted) == 2
    rows = _sweep(supernet, path, configs=[configs[3], configs[1], configs[1], configs[4]])
    assert [row.config for row in rows] == [configs[3], configs[1], configs[4]]
    assert rows[1] == first[1]
    assert len(counted) == 4
    assert len(path.read_text().splitlines()) == 4


def test_numbers_of_numpy_are_stored_and_found_again(tmp_path, counted):
    supernet, data, path = make_supernet("vit"), make_split(), tmp_path / "rows.jsonl"
    plain = some_configs(supernet, 3)
    typed = [SubmodelConfig(np.int32(c.hidden), np.array(c.attention), list(c.ffn)) for c in plain]
    rows = sweep(supernet, typed, data, path, seed=np.int64(5), progress=False)
    assert [row.config for row in rows] == plain
    assert [row.seed for row in read_sweep(path)] == [5] * 3
    counted.clear()
    assert sweep(supernet, plain, data, path, progress=False) == rows
    assert not counted
    with pytest.raises(SweepError, match="seed=<"):
        sweep(supernet, plain, data, path, seed=object(), progress=False)


@pytest.mark.parametrize("cut", ["inside", "one byte", "before the line end", "zeros"])
def test_a_last_line_that_was_cut_off(tmp_path, counted, cut):
    supernet, path = make_supernet("vit"), tmp_path / "rows.jsonl"
    rows = _sweep(supernet, path)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    kept = {"inside": last + 60, "one byte": last + 1, "before the line end": len(whole) - 1, "zeros": last}[cut]
    path.write_bytes(whole[:kept] + (b"\0" * 40 if cut == "zeros" else b""))
    left = read_sweep(path)
    assert left == (rows if cut == "before the line end" else rows[:-1])
    counted.clear()
    again = _sweep(supernet, path)
    assert len(counted) == len(rows) - len(left)
    assert [row.config for row in again] == [row.config for row in rows]
    assert len(path.read_bytes().splitlines()) == len(rows)
    assert path.read_bytes().endswith(b"\n")
    assert read_sweep(path) == again


def test_other_files_are_never_changed(tmp_path):
    supernet = make_supernet("vit")
    for content in (b'{"atten_out_space": [96]}', b'{\n "a": 1\n}\n', b"\x80\x04 no text", b'{"checkpoint": 1}'):
        path = tmp_path / "precious"
        path.write_bytes(content)
        if content.startswith(b'{"checkpoint'):
            content += b"\n"
            path.write_bytes(content)
        with pytest.raises(SweepError, match="line 1"):
            _sweep(supernet, path)
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda line: line[:50], "line 2"),
        (lambda line: "[]", "line 2"),
        (lambda line: json.dumps({k: v for k, v in json.loads(line).items() if k != "loss"}), "line 2.*'loss'"),
        (lambda line: json.dumps({**json.loads(line), "accuracy": "high"}), "line 2.*accuracy='high'"),
        (lambda line: json.dumps({**json.loads(line), "attention": []}), "line 2"),
        (lambda line: json.dumps({**json.loads(line), "hidden": None}), "line 2"),
        (lambda line: line[:-1] + ', "accuracy": 0.99}', "line 2.*'accuracy' is given twice"),
        *[
            (lambda line, change=change: json.dumps({**json.loads(line), **change}), f"line 2: .*{said}")
            for change, said in (
                ({"accuracy": 1.5}, "accuracy=1.5"),
                ({"accuracy": True}, "accuracy=True"),
                ({"accuracy": math.nan}, "accuracy=nan"),
                ({"low": 0.5, "accuracy": 0.4, "high": 0.6}, "accuracy=0.4 outside 0.5 to 0.6"),
                ({"low": -0.1}, "low=-0.1"),
                ({"f1": 2}, "f1=2"),
                ({"loss": -1.0}, "loss=-1.0"),
                ({"examples": 0}, "examples=0"),
                ({"parameters": -5}, "parameters=-5"),
                ({"macs": -1}, "macs=-1"),
                ({"weight_bytes": True}, "weight_bytes=True"),
                ({"hidden": 0}, "a width of 0"),
                ({"hidden": 48.5}, "a width of 48.5"),
                ({"ffn": [64, -7, 64]}, "a width of -7"),
                ({"attention": ["48", 48, 48]}, "a width of '48'"),
                ({"attention": [48, 48]}, "2 attention widths and 3 FFN widths"),
            )
        ],
    ],
)
def test_a_damaged_line_is_named(tmp_path, damage, named):
    path = tmp_path / "rows.jsonl"
    _sweep(make_supernet("vit"), path, count=3)
    lines = path.read_text().splitlines()
    lines[1] = damage(lines[1])
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(SweepError, match=named):
        read_sweep(path)


def test_a_missing_file_is_named(tmp_path, monkeypatch):
    with pytest.raises(SweepError, match=r"rows\.jsonl does not exist: make it"):
        read_sweep(tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SweepError, match=rf"seen from {tmp_path}; the notebooks are run in notebooks/"):
        read_sweep("../figures/rows.jsonl")


@pytest.mark.parametrize("place", ["/sys/rows.jsonl", "/sys/new/rows.jsonl", "file/rows.jsonl", "folder"])
def test_a_file_that_cannot_be_written_is_named_before_anything_is_measured(tmp_path, place, counted):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    supernet = make_supernet("vit")
    with pytest.raises(SweepError, match=rf"{place} cannot be (written|read) .*: .*give"):
        sweep(supernet, [supernet.space.smallest()], make_split("vit"), tmp_path / place, progress=False)
    assert counted == []


def test_a_finished_sweep_is_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    rows = _sweep(make_supernet("vit"), path)
    monkeypatch.setattr(os, "open", lambda *args, **kwargs: pytest.fail("opened for writing"))
    assert _sweep(make_supernet("vit"), path) == rows
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]


def test_results_of_another_kind_are_not_mixed_in(tmp_path, counted):
    supernet, data, path = make_supernet("vit"), make_split("vit"), tmp_path / "rows.jsonl"
    _sweep(supernet, path)
    before = path.read_bytes()
    counted.clear()
    others = {
        "fingerprint": (make_supernet("vit", seed=9), data),
        "dataset": (supernet, replace(data, name="other")),
        "split": (supernet, replace(data, split="validation")),
        "examples": (supernet, make_split("vit", examples=31)),
        "data_fingerprint": (supernet, replace(data, fingerprint="ffff")),
    }
    for name, (other, split) in others.items():
        with pytest.raises(SweepError, match=rf"rows\.jsonl holds rows with {name}="):
            _sweep(other, path, data=split)
    other_slicing = make_supernet("vit", "contiguous")
    with pytest.raises(SweepError, match="fingerprint"):
        _sweep(other_slicing, path, configs=some_configs(supernet, 3))
    assert path.read_bytes() == before
    assert not counted


@pytest.mark.parametrize(("trained_on", "scored_on"), [("sst2", "movie_reviews"), ("movie_reviews", "sst2")])
def test_a_checkpoint_is_not_scored_on_what_it_may_have_seen(tmp_path, trained_on, scored_on):
    supernet = make_supernet("bert")
    supernet.spec = replace(supernet.spec, provenance={"dataset": trained_on})
    path = tmp_path / "rows.jsonl"
    with pytest.raises(
        DataError, match=rf"trained on {trained_on}.*same source as {scored_on}.*trained on {scored_on}"
    ):
        _sweep(supernet, path, data=make_split("bert", name=scored_on))
    assert not path.exists()
    assert len(_sweep(supernet, path, count=2, data=make_split("bert", name=trained_on))) == 2


@pytest.mark.parametrize("name", checkpoints.bundled())
def test_stored_rows_of_a_bundled_checkpoint_can_be_compared(name):
    rows = read_sweep(TESTS.parent / "figures" / "data" / f"{name}.jsonl")
    assert len(rows) >= 300
    assert compare(rows[0], rows[-1]).examples == rows[0].examples


def test_rows_from_before_encoder_parameters_are_read_and_continued(tmp_path, counted):
    committed = sorted((TESTS.parent / "figures" / "data").glob("vit-small-*.jsonl"))
    assert all(row.parameters > 500_000 for path in committed for row in read_sweep(path))
    supernet, path = make_supernet("vit"), tmp_path / "rows.jsonl"
    rows = _sweep(supernet, path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        assert line.pop("encoder_parameters") < line["parameters"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[:2]))
    counted.clear()
    again = _sweep(supernet, path)
    assert len(counted) == len(rows) - 2
    assert again[:2] == [replace(row, encoder_parameters=None) for row in rows[:2]] == read_sweep(path)[:2]
    assert again[2].encoder_parameters == rows[2].encoder_parameters
    path.write_text(json.dumps({**lines[0], "encoder_parameters": "many"}) + "\n")
    with pytest.raises(SweepError, match="encoder_parameters='many'"):
        read_sweep(path)


def test_token_counts_are_not_mixed(tmp_path):
    supernet, data, path = make_supernet("bert"), make_split("bert", examples=5), tmp_path / "rows.jsonl"
    (row,) = _sweep(supernet, path, configs=[supernet.full], data=data)
    assert row.macs is None
    supernet.tokens = 16
    with pytest.raises(SweepError, match="tokens=None"):
        _sweep(supernet, path, configs=[supernet.full], data=data)
    path.unlink()
    (row,) = _sweep(supernet, path, configs=[supernet.full], data=data)
    assert (row.tokens, row.macs) == (16, supernet.cost(supernet.full, 16).macs)


def test_a_bad_configuration_is_found_before_any_work(tmp_path, counted):
    supernet, path = make_supernet("vit"), tmp_path / "rows.jsonl"
    bad = SubmodelConfig(49, (48,) * 3, (64,) * 3)
    with pytest.raises(ElasticSpaceError, match="49"):
        _sweep(supernet, path, configs=[supernet.full, bad])
    assert not counted
    assert not path.exists()


def test_workers_change_nothing_but_the_time(tmp_path):
    supernet, threads = make_supernet("vit"), torch.get_num_threads()
    seen = []
    for workers in (1, 3):
        path = tmp_path / f"{workers}.jsonl"
        rows = _sweep(supernet, path, count=6, workers=workers)
        assert rows == read_sweep(path), "in the order asked for"
        seen.append([(row.config, row.right) for row in rows])
    assert seen[0] == seen[1]
    assert torch.get_num_threads() == threads
    with pytest.raises(SweepError, match="workers=0: give at least 1"):
        _sweep(supernet, tmp_path / "none.jsonl", workers=0)


def test_on_an_accelerator_and_alone_all_is_done_in_the_thread_of_the_caller():
    """Devices and modes of torch may be of one thread."""
    for workers, device in ((1, "cpu"), (2, "meta")):
        with evaluation_module._side_by_side(workers, torch.device(device)) as each:
            assert set(each(lambda _: threading.current_thread(), range(4))) == {threading.current_thread()}
    with evaluation_module._side_by_side(2, torch.device("cpu")) as each:
        assert threading.current_thread() not in set(each(lambda _: threading.current_thread(), range(4)))


def test_what_has_not_begun_when_one_fails_is_not_measured(tmp_path, monkeypatch):
    made: list[int] = []

    def failing(*args, **kwargs):
        made.append(1)
        if len(made) == 1:
            raise MemoryError
        time.sleep(0.1)
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(evaluation_module, "evaluate", failing)
    with pytest.raises(MemoryError):
        _sweep(make_supernet("vit"), tmp_path / "rows.jsonl", count=20)
    assert len(made) < 20


def test_interruption_leaves_a_valid_file(tmp_path, monkeypatch):
    supernet, path = make_supernet("vit"), tmp_path / "rows.jsonl"
    made: list[int] = []

    def interrupted(*args, **kwargs):
        made.append(1)
        if len(made) == 3:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(evaluation_module, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _sweep(supernet, path, count=5, workers=1)
    assert len(read_sweep(path)) == 2
    before = len(made)
    rows = _sweep(supernet, path, count=5)
    assert len(made) == before + 3
    assert rows == read_sweep(path)


def test_rows_written_twice_are_read_once(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = _sweep(make_supernet("vit"), path)
    path.write_bytes(path.read_bytes() * 2)
    assert read_sweep(path) == rows


def test_progress_bar_shows_the_latest_accuracy(tmp_path, capsys):
    supernet = make_supernet("vit")
    rows = sweep(supernet, some_configs(supernet, 3), make_split("vit"), tmp_path / "rows.jsonl")
    shown = capsys.readouterr().err
    assert "3/3" in shown
    assert f"accuracy={rows[-1].accuracy:.3f}" in shown


def test_rows_have_the_documented_fields():
    names = {item.name for item in fields(SweepRow)}
    assert {"checkpoint", "fingerprint", "config", *METRICS, "dataset", "split", "data_fingerprint"} <= names
    assert {"examples", "accuracy", "low", "high", "f1", "loss", "seed", "device", "seconds"} <= names


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from conftest import make_split, make_supernet, some_configs
from raffm_utils.evaluation import accuracy as evaluation
supernet = make_supernet("vit")
configs = some_configs(supernet, int(sys.argv[3]))
evaluation.sweep(supernet, configs, make_split("vit"), sys.argv[2], progress=False)
"""


def _child(path: Path, count: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", CHILD, str(TESTS), str(path), str(count)]
    return subprocess.Popen(command, cwd=TESTS.parent)


def _lines(path: Path) -> int:
    try:
        return len(path.read_bytes().splitlines())
    except FileNotFoundError:  # not yet, or tried and removed again by a sweep that begins
        return 0


def _wait_for_lines(path: Path, count: int, child: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while _lines(path) < count:
        assert child.poll() is None, "the sweep ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_kill_loses_and_doubles_nothing(tmp_path):
    path, supernet = tmp_path / "rows.jsonl", make_supernet("vit")
    expected = list(dict.fromkeys(some_configs(supernet, 300)))
    child = _child(path, 300)
    try:
        _wait_for_lines(path, 25, child)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    after = read_sweep(path)
    assert 24 <= len(after) < len(expected)
    assert [row.config for row in after] == expected[: len(after)], "none lost"
    assert _lines(path) - len(after) in (0, 1)
    rows = _sweep(supernet, path, configs=expected[: len(after) + 10])
    assert [row.config for row in rows] == expected[: len(after) + 10]
    assert rows[: len(after)] == after
    assert _lines(path) == len(rows), "none doubled"


def test_two_processes_do_not_tear_each_others_rows(tmp_path):
    path, supernet = tmp_path / "rows.jsonl", make_supernet("vit")
    expected = list(dict.fromkeys(some_configs(supernet, 150)))
    child = _child(path, 150)
    try:
        _wait_for_lines(path, 10, child)
        _sweep(supernet, path, configs=expected[::-1])
        assert child.wait(60) == 0
    finally:
        child.kill()
        child.wait()
    rows = read_sweep(path)  # raises when a line is torn
    assert {row.config for row in rows} == set(expected)
    assert len(rows) == len(expected) < _lines(path), "some were measured by both, and are read once"
