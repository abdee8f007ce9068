"""Widths and limits as they come: integers of numpy and torch, lists, arrays; and what is no number at all."""

import numpy as np
import pytest
import torch
import transformers

from raffm_utils.errors import ElasticSpaceError, InfeasibleBudget
from raffm_utils.space import FAMILIES, Budget, SubmodelConfig
from raffm_utils.supernet import ElasticSpec, Supernet

PLAIN = SubmodelConfig(48, (48, 32), (64, 40))
KINDS = (np.int8, np.uint8, np.int32, np.int64, torch.IntTensor)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_widths_of_any_kind_are_the_same_configuration(kind):
    for attention, ffn in (
        (kind(PLAIN.attention), kind(PLAIN.ffn)),
        (list(kind(PLAIN.attention)), tuple(kind(PLAIN.ffn))),
    ):
        config = SubmodelConfig(kind([48])[0], attention, ffn)
        assert config == PLAIN
        assert hash(config) == hash(PLAIN)
        assert {type(width) for width in (config.hidden, *config.attention, *config.ffn)} == {int}
        assert SubmodelConfig.from_arc(config.to_arc()) == PLAIN


def test_a_published_form_of_numpy_numbers():
    arc = {name: {key: np.int32(width) for key, width in row.items()} for name, row in PLAIN.to_arc().items()}
    assert SubmodelConfig.from_arc(arc) == PLAIN
    arc["layer_2"]["inter_hidden"] = 12.7  # once cut to 12
    with pytest.raises(ElasticSpaceError, match=r"12\.7"):
        SubmodelConfig.from_arc(arc)


@pytest.mark.parametrize(
    ("widths", "named"),
    [
        ((48.0, (48, 32), (64, 40)), r"hidden=48\.0: give a whole number"),
        (("48", (48, 32), (64, 40)), "hidden='48'"),
        ((48, (48, 32.5), (64, 40)), r"attention=\(48, 32\.5\): give a whole number for every layer"),
        ((48, 48, (64, 40)), "attention=48"),
        ((48, (48, 32), "64"), "ffn='64'"),
        ((48, (48, 32), (64, None)), "ffn="),
        ((None, (48, 32), (64, 40)), "hidden=None"),
    ],
)
def test_what_is_no_whole_number_is_refused(widths, named):
    with pytest.raises(ElasticSpaceError, match=named):
        SubmodelConfig(*widths)


def _base(kind):
    """A network of usual size, without memory: its costs are above 32 bits."""
    family = FAMILIES[kind]
    config = transformers.AutoConfig.for_model(kind, num_labels=10)
    with torch.device("meta"):
        model = getattr(transformers, family.auto_class).from_config(config)
    layers, _, hidden, ffn = family.widths(config)
    spec = ElasticSpec.from_json({"residual_hidden_space": [hidden, 512], "inter_hidden_space": [ffn, 1024]}, "test")
    return Supernet(model, family, spec), SubmodelConfig(hidden, (hidden,) * layers, (ffn,) * layers)


@pytest.mark.parametrize("kind", FAMILIES)
def test_costs_and_budgets_do_not_overflow(kind):
    supernet, plain = _base(kind)
    typed = SubmodelConfig(np.int32(plain.hidden), np.int32(plain.attention), np.int32(plain.ffn))
    tokens = None if supernet.family.is_image else 500
    asked = supernet.cost(typed, None if tokens is None else np.int32(tokens))  # first: nothing wrong may be remembered
    fresh, _ = _base(kind)
    assert asked == fresh.cost(plain, tokens) == supernet.cost(plain, tokens)
    assert asked.macs > 2**32
    supernet.tokens = None if tokens is None else np.int32(tokens)
    assert not supernet.space.fits(typed, Budget(max_macs=np.float32(1e9)))


@pytest.mark.parametrize("value", [5000, np.int32(5000), np.int64(5000), np.float32(5000), torch.tensor(5000)])
def test_limits_are_numbers_of_pythons_own(value):
    budget = Budget(max_latency_ms=value, max_macs=value)
    assert budget == Budget(max_latency_ms=5000, max_macs=5000)
    assert budget.limits() == {"latency_ms": (None, 5000 * 10**6), "macs": (None, 5000)}


@pytest.mark.parametrize("limits", [dict(max_macs="many"), dict(min_parameters=[1, 2])])
def test_limits_that_are_no_numbers(limits):
    with pytest.raises(InfeasibleBudget, match=next(iter(limits))):
        Budget(**limits)
