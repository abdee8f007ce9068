"""Ordering by importance moves weights about without changing what the network computes."""

import pytest
import torch
from conftest import FAMILY_NAMES, HEADS, make_inputs, make_supernet

from raffm_utils.errors import ElasticSpaceError
from raffm_utils.federated import magnitude_scores
from raffm_utils.space import Axis, Role

WIDTH, FFN, LAYERS = 48, 64, 3
_BERT_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "first": "intermediate.dense",
    "second": "output.dense",
}
_PARTS = {
    "vit.layers.{}.": {
        **{part: f"attention.{part[0]}_proj" for part in ("query", "key", "value", "output")},
        "first": "mlp.fc1",
        "second": "mlp.fc2",
    },
    "bert.encoder.layer.{}.": _BERT_LAYER,
    "roberta.encoder.layer.{}.": _BERT_LAYER,
    "distilbert.transformer.layer.{}.": {
        **{part: f"attention.{part[0]}_lin" for part in ("query", "key", "value")},
        "output": "attention.out_lin",
        "first": "ffn.lin1",
        "second": "ffn.lin2",
    },
}
NAMES = {
    prefix.partition(".")[0]: {part: prefix + name for part, name in parts.items()} for prefix, parts in _PARTS.items()
}


def _logits(model, inputs):
    with torch.inference_mode():
        return model(**inputs).logits


def _weight(supernet, part, layer):
    name = NAMES[supernet.family.model_type][part].format(layer)
    return supernet.model.get_parameter(f"{name}.weight")


def test_every_axis_has_positive_scores(kind_and_supernet):
    _, supernet = kind_and_supernet
    scores = magnitude_scores(supernet)
    expected = {(Axis.HIDDEN, None, None): WIDTH}
    for layer in range(LAYERS):
        expected[Axis.FFN, layer, None] = FFN
        expected[Axis.ATTENTION, layer, Role.QUERY_KEY] = WIDTH
        expected[Axis.ATTENTION, layer, Role.VALUE_OUTPUT] = WIDTH
    assert {key: len(score) for key, score in scores.items()} == expected
    for score in scores.values():
        assert score.ndim == 1
        assert bool((score > 0).all())
        assert len(score.unique()) > 1


def test_scores_are_products_of_norms(kind_and_supernet):
    _, supernet = kind_and_supernet
    scores = magnitude_scores(supernet)
    for layer in range(LAYERS):
        norms = {part: _weight(supernet, part, layer).norm(dim=1) for part in ("query", "key", "value", "first")}
        norms |= {part: _weight(supernet, part, layer).norm(dim=0) for part in ("output", "second")}
        for key, one, other in (
            ((Axis.FFN, layer, None), "first", "second"),
            ((Axis.ATTENTION, layer, Role.QUERY_KEY), "query", "key"),
            ((Axis.ATTENTION, layer, Role.VALUE_OUTPUT), "value", "output"),
        ):
            torch.testing.assert_close(scores[key], norms[one] * norms[other])


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_hidden_channels_are_scored_by_what_reads_them(kind):
    supernet = make_supernet(kind)
    before = magnitude_scores(supernet)[Axis.HIDDEN, None, None]
    with torch.no_grad():
        _weight(supernet, "query", 1)[:, 7] *= 3
        norm = next(n for n, _ in supernet.model.named_parameters() if "norm" in n.lower() and n.endswith("weight"))
        supernet.model.get_parameter(norm)[9] = 20
        # writing to a channel is not reading it
        _weight(supernet, "second", 1)[11] *= 3
    gain = magnitude_scores(supernet)[Axis.HIDDEN, None, None] - before
    assert set(gain.nonzero().flatten().tolist()) == {7, 9}
    assert gain[7] == pytest.approx(2 / 3 * _weight(supernet, "query", 1)[:, 7].norm().item(), rel=1e-3)


def test_reordering_keeps_what_the_full_network_computes(kind_and_supernet):
    kind, supernet = kind_and_supernet
    inputs = make_inputs(kind)
    before = _logits(supernet.model, inputs)
    small = _logits(supernet.extract(supernet.space.smallest()), inputs)
    print_before, total = supernet.fingerprint(), sum(p.double().sum() for p in supernet.model.parameters())
    supernet.reorder(magnitude_scores(supernet))
    assert supernet.fingerprint() != print_before
    assert (_logits(supernet.model, inputs) - before).abs().max() < 1e-4
    assert (_logits(supernet.extract(supernet.full), inputs) - before).abs().max() < 1e-4
    assert (_logits(supernet.extract(supernet.space.smallest()), inputs) - small).abs().max() > 1e-2
    assert sum(p.double().sum() for p in supernet.model.parameters()) == pytest.approx(float(total))


def test_any_order_keeps_what_the_full_network_computes(kind_and_supernet):
    kind, supernet = kind_and_supernet
    inputs = make_inputs(kind)
    before = _logits(supernet.model, inputs)
    generator = torch.Generator().manual_seed(0)
    for key, score in magnitude_scores(supernet).items():
        print_before = supernet.fingerprint()
        supernet.reorder({key: torch.rand(len(score), generator=generator)})  # each axis by itself
        assert supernet.fingerprint() != print_before
        assert (_logits(supernet.model, inputs) - before).abs().max() < 1e-4


def test_the_new_order_is_descending(kind_and_supernet):
    _, supernet = kind_and_supernet
    before = magnitude_scores(supernet)
    supernet.reorder(before)
    after = magnitude_scores(supernet)
    for (axis, *_), score in after.items():
        rows = score.view(HEADS, -1) if axis is Axis.ATTENTION else score.view(1, -1)
        assert bool((rows.diff(dim=1) <= 1e-5 * rows[:, :-1]).all())
    for key, score in after.items():  # heads stay where they are
        rows = (HEADS, -1) if key[0] is Axis.ATTENTION else (1, -1)
        torch.testing.assert_close(score.view(rows).sort(dim=1).values, before[key].view(rows).sort(dim=1).values)
    again = supernet.fingerprint()
    supernet.reorder({key: torch.arange(len(score), 0, -1.0) for key, score in after.items()})
    assert supernet.fingerprint() == again, "already in this order"


@pytest.mark.parametrize("score", [torch.ones(47), torch.ones(48, 1), torch.full((48,), float("nan"))])
def test_bad_scores_change_nothing(score):
    supernet = make_supernet("vit")
    before = supernet.fingerprint()
    good = magnitude_scores(supernet)
    with pytest.raises(ElasticSpaceError, match="48 finite"):
        supernet.reorder({**good, (Axis.HIDDEN, None, None): score})
    assert supernet.fingerprint() == before
