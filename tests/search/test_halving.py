"""Successive halving: losers see few examples, all in a rung see the same, and the best stays."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TensorSplit, make_inputs, make_supernet, some_configs

from raffm_utils.errors import DataError
from raffm_utils.evaluation import evaluate
from raffm_utils.search import choose


class Split(TensorSplit):
    """A split that can be cut, and remembers how."""

    cuts: list[list[int]]

    def subset(self, indices):
        self.cuts.append(list(indices))
        inputs = {name: tensor[list(indices)] for name, tensor in self.inputs.items()}
        return replace(self, inputs=inputs, labels=self.labels[list(indices)])


@pytest.fixture(scope="module")
def supernet():
    return make_supernet()


def make_split(supernet, config, examples: int = 64, split: str = "validation") -> Split:
    """Labels are what `config` answers, but for every tenth."""
    inputs = make_inputs("vit", batch=examples)
    with torch.no_grad():
        labels = supernet.extract(config)(**inputs).logits.argmax(dim=1)
    labels[::10] = (labels[::10] + 1) % 5
    data = Split(inputs, labels, split=split)
    data.cuts = []
    return data


def test_the_best_is_found_with_few_examples_on_the_others(supernet):
    configs = some_configs(supernet, 8)
    data = make_split(supernet, configs[5])
    selection = choose(supernet, configs, data, progress=False)
    assert selection.config == configs[5]
    assert [rung.examples for rung in selection.rungs] == [16, 32, 64]
    counts = [len(rung.candidates) for rung in selection.rungs]
    assert counts[0] == 8
    assert counts[1] <= 4
    assert counts[2] <= 2
    assert selection.measured == 8 * 16 + counts[1] * 16 + counts[2] * 32 <= 8 * 16 + 4 * 16 + 2 * 32
    assert selection.chosen.accuracy == pytest.approx(evaluate(supernet.extract(configs[5]), data).accuracy)


def test_every_rung_adds_examples_that_all_in_it_see(supernet):
    configs = some_configs(supernet, 8)
    data = make_split(supernet, configs[0])
    rungs = choose(supernet, configs, data, examples=48, progress=False, rng=np.random.default_rng(1)).rungs
    assert [rung.examples for rung in rungs] == [16, 24, 48]
    seen = [index for cut in data.cuts for index in cut]
    assert len(data.cuts) == 3
    assert len(seen) == len(set(seen)) == 48
    for number, rung in enumerate(rungs):
        part = data.subset(seen[: rung.examples])
        for candidate in rung.candidates:
            alone = evaluate(supernet.extract(candidate.config), part)
            assert (candidate.accuracy, candidate.low, candidate.high) == pytest.approx(
                (alone.accuracy, alone.low, alone.high)
            )
            assert candidate.loss == pytest.approx(alone.loss, rel=1e-4)
        if number:
            assert {c.config for c in rung.candidates} == {
                c.config for c in rungs[number - 1].candidates[: rungs[number - 1].kept]
            }
        order = [(-c.accuracy, c.loss) for c in rung.candidates]
        assert order == sorted(order)


def test_those_surely_behind_the_best_are_dropped_and_others_go_on(supernet):
    configs = some_configs(supernet, 8)
    selection = choose(supernet, configs, make_split(supernet, configs[1], examples=800), progress=False)
    first = selection.rungs[0]
    best = first.candidates[0]
    assert (best.behind.difference, best.behind.won, best.behind.lost) == (0, 0, 0)
    for place, candidate in enumerate(first.candidates):
        assert candidate.behind.difference == pytest.approx(candidate.accuracy - best.accuracy)
        assert candidate.behind.examples == first.examples
        assert candidate.behind.high < 0 or place < first.kept or place >= 4
    assert any(each.behind.high < 0 for each in first.candidates[:4])  # without pairs, half would go on
    assert first.kept < 4
    assert selection.config == configs[1]


def test_one_candidate_is_measured_once_and_twins_are_one(supernet):
    config = supernet.space.smallest()
    data = make_split(supernet, config)
    selection = choose(supernet, [config, config], data, progress=False)
    assert (len(selection.rungs), selection.measured, selection.config) == (1, 64, config)


def test_few_examples_make_fewer_rungs(supernet):
    configs = some_configs(supernet, 8)
    data = make_split(supernet, configs[0])
    rungs = choose(supernet, configs, data, examples=10, progress=False).rungs
    assert [(rung.examples, len(rung.candidates), rung.kept) for rung in rungs] == [(10, 8, 1)]


def test_what_cannot_choose_is_refused(supernet):
    configs = some_configs(supernet, 3)
    with pytest.raises(DataError, match="validation"):
        choose(supernet, configs, make_split(supernet, configs[0], split="test"))
    data = make_split(supernet, configs[0])
    for changes in ({"examples": 65}, {"examples": 0}):
        with pytest.raises(DataError, match="1 to 64 examples"):
            choose(supernet, configs, data, **changes)
    with pytest.raises(DataError, match="0 submodels"):
        choose(supernet, [], data)
