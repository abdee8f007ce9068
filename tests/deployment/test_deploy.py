"""From a budget to a folder: what is picked, on which examples, and the command."""

import importlib
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.federated import LABELS, learnable_split, make_even_supernet, make_processor, one_thread  # noqa: F401

from raffm_utils import (
    Budget,
    InfeasibleBudget,
    LatencyModel,
    Supernet,
    data,
    deploy,
    evaluate,
    load_submodel,
)
from raffm_utils import __main__ as commands
from raffm_utils.deployment import widths_of
from raffm_utils.errors import CheckpointError, DataError, DeploymentError
from raffm_utils.search import choose
from raffm_utils.space import NEAR, SubmodelConfig, Timed, near_the_limit
from raffm_utils.supernet import checkpoints


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> SimpleNamespace:
    """A tiny checkpoint, and data that only has a validation split."""
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    supernet = make_even_supernet(**names)
    folder = tmp_path / "tiny"
    spec = replace(supernet.spec, provenance={"dataset": "made_up"})
    checkpoints.save(folder, supernet.model, spec, make_processor(), torch.float32)

    def load_split(name, split, *, limit=None, processor=None):
        assert (name, split) == ("made_up", "validation"), "nothing but validation may be looked at"
        return learnable_split(limit, 3, split)

    monkeypatch.setattr(data, "load_split", load_split)
    return SimpleNamespace(folder=folder, supernet=Supernet.from_pretrained(folder), out=tmp_path / "out")


def share(supernet: Supernet, part: float) -> Budget:
    return Budget(max_parameters=part * supernet.cost(supernet.full).parameters)


def test_candidates_lie_near_the_limit():
    supernet = make_even_supernet()
    budget = share(supernet, 0.8)
    configs = near_the_limit(supernet.space, budget, 5, np.random.default_rng(0))
    assert 2 <= len(configs) == len(set(configs)) <= 5
    for config in configs:
        assert NEAR * budget.max_parameters <= supernet.cost(config).parameters <= budget.max_parameters


def test_the_largest_is_a_candidate_where_it_fits():
    supernet = make_even_supernet()
    assert near_the_limit(supernet.space, Budget(), 3, np.random.default_rng(0))[0] == supernet.space.largest()
    assert near_the_limit(supernet.space, share(supernet, 1), 1, np.random.default_rng(0)) == [supernet.space.largest()]
    assert supernet.space.largest() not in near_the_limit(
        supernet.space, share(supernet, 0.99), 3, np.random.default_rng(0)
    )


def test_limits_that_are_never_near_together_still_give_candidates():
    supernet = make_even_supernet()
    full, least = (supernet.cost(c) for c in (supernet.full, supernet.space.smallest()))
    budget = Budget(max_parameters=full.parameters, max_macs=least.macs)
    assert near_the_limit(supernet.space, budget, 3, np.random.default_rng(0)) == [supernet.space.smallest()]
    with pytest.raises(InfeasibleBudget, match="raise it to"):
        near_the_limit(supernet.space, Budget(max_parameters=10), 3, np.random.default_rng(0))


def test_deploy_picks_on_one_half_and_measures_on_the_other(tiny):
    budget = share(tiny.supernet, 0.8)
    export = deploy(tiny.folder, budget, tiny.out, formats=["safetensors"], candidates=4, examples=80, progress=False)
    model = load_submodel(tiny.out)
    assert export.parameters == sum(p.numel() for p in model.parameters()) <= budget.max_parameters
    split = learnable_split(80, 3, "validation")
    first, second = split.subset(range(40)), split.subset(range(40, 80))
    rng = np.random.default_rng(0)
    candidates = near_the_limit(tiny.supernet.space, budget, 4, rng)
    assert widths_of(model) == choose(tiny.supernet, candidates, first, rng=rng, progress=False).config
    (found,) = export.formats
    assert found.evaluation is not None
    assert (found.split, found.evaluation.examples) == ("validation", 40)
    assert found.evaluation.accuracy == evaluate(model, second).accuracy
    assert export.about["checkpoint"] == "tiny"
    assert export.about["fingerprint"] == tiny.supernet.fingerprint()
    assert export.about["macs"] == tiny.supernet.cost(widths_of(model)).macs
    assert json.loads((tiny.out / "submodel.json").read_text())["chosen"] == export.about["chosen"]
    card = (tiny.out / "README.md").read_text()
    assert f"{found.evaluation.accuracy:.2%}" in card
    assert f"Of {len(candidates)} drawn near the limit, the most accurate by successive halving" in card
    assert "on the first 40 made_up validation examples" in card
    assert f"max_parameters {budget.max_parameters:,.0f}" in card


def test_faults_are_found_before_the_work(tiny, monkeypatch):
    module = importlib.import_module("raffm_utils.deployment.deploy")
    monkeypatch.setattr(module, "choose", lambda *_, **__: pytest.fail("work was done"))
    with pytest.raises(InfeasibleBudget):
        deploy(tiny.supernet, Budget(max_parameters=10), tiny.out, formats=["safetensors"])
    with pytest.raises(DeploymentError, match="tflite"):
        deploy(tiny.supernet, Budget(), tiny.out, formats=["tflite"])
    with pytest.raises(DeploymentError, match="candidates=0"):
        deploy(tiny.supernet, Budget(), tiny.out, formats=["safetensors"], candidates=0)
    with pytest.raises(DeploymentError, match="not empty"):
        deploy(tiny.supernet, Budget(), tiny.folder, formats=["safetensors"])
    with pytest.raises(CheckpointError, match="provenance"):
        deploy(make_even_supernet(), Budget(), tiny.out, formats=["safetensors"])
    assert not tiny.out.exists()


def test_without_data_nothing_is_chosen(tiny, monkeypatch, capsys):
    monkeypatch.setattr(data, "load_split", lambda *_, **__: pytest.fail("data was read"))
    export = deploy(tiny.supernet, share(tiny.supernet, 0.8), tiny.out, formats=["safetensors"], examples=0)
    assert [(found.evaluation, found.compared_on) for found in export.formats] == [(None, "made-up inputs")]
    assert "no data was looked at" in export.about["chosen"]
    assert "not measured" in (tiny.out / "README.md").read_text()
    assert "2/2" in capsys.readouterr().err


def test_missing_data_says_how_to_go_without(tiny, monkeypatch):
    def missing(*_, **__):
        raise DataError("no made_up here")

    monkeypatch.setattr(data, "load_split", missing)
    with pytest.raises(DataError, match="no made_up here; or choose without data, by examples=0"):
        deploy(tiny.supernet, Budget(), tiny.out, formats=["safetensors"])


def test_choosing_and_writing_show_how_far_they_are(tiny, capsys):
    deploy(tiny.supernet, Budget(), tiny.out, formats=["safetensors"], candidates=2, examples=20)
    shown = capsys.readouterr().err
    assert "20/20" in shown, "two candidates, ten examples each"
    assert "2/2" in shown
    assert "check safetensors" in shown


@pytest.mark.parametrize(("limit", "factor"), [("{:.0f}", 1), ("{:.6f}M", 1e6), ("{:.9f}G", 1e9), ("{:.3f}k", 1e3)])
def test_the_command(tiny, capsys, limit, factor):
    most = 0.8 * tiny.supernet.cost(tiny.supernet.full).parameters
    arguments = ["deploy", "--checkpoint", str(tiny.folder), "--out", str(tiny.out), "--examples", "40"]
    arguments += ["--max-parameters", limit.format(most / factor), "--formats", "safetensors"]
    assert commands.main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"wrote {tiny.out}: " in printed
    assert "model.safetensors" in printed
    assert "of 20 validation examples" in printed
    assert sum(p.numel() for p in load_submodel(tiny.out).parameters()) <= most
    assert commands.main(arguments) == 1
    assert "DeploymentError: " in capsys.readouterr().err


def test_the_command_keeps_limits_on_latency_and_activations(tiny, capsys, monkeypatch):
    full, least = (tiny.supernet.cost(c) for c in (tiny.supernet.full, tiny.supernet.space.smallest()))
    peak = (full.peak_activation_bytes + least.peak_activation_bytes) // 2
    model = LatencyModel((Timed(tiny.supernet.full, 2.0), Timed(tiny.supernet.space.smallest(), 1.0)), ())
    monkeypatch.setattr(LatencyModel, "fit", lambda supernet, **_: model)
    arguments = ["deploy", "--checkpoint", str(tiny.folder), "--out", str(tiny.out), "--examples", "40"]
    arguments += ["--max-latency-ms", "1.6", "--max-peak-activation-bytes", str(peak), "--formats", "safetensors"]
    assert commands.main(arguments) == 0
    assert "latency of this machine" in capsys.readouterr().out
    widths = load_submodel(tiny.out).config.submodel
    config = SubmodelConfig(widths["hidden"], tuple(widths["attention"]), tuple(widths["ffn"]))
    assert tiny.supernet.cost(config).peak_activation_bytes <= peak
    assert model.predict_ms(config) <= 1.6


def test_limits_that_are_no_numbers_are_usage_errors(capsys):
    with pytest.raises(SystemExit):
        commands.main(["deploy", "--checkpoint", "x", "--out", "y", "--max-parameters", "many"])
    assert "--max-parameters" in capsys.readouterr().err
