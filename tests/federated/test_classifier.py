"""The classifier: fitted to features it beats chance, and scaled its probabilities can be believed."""

import pytest
import torch
from conftest import FAMILY_NAMES, make_inputs, make_split, make_supernet
from helpers.federated import learnable_split, make_even_supernet, one_thread  # noqa: F401

from raffm_utils.evaluation import evaluate
from raffm_utils.federated import calibrate_classifier, concentrate, fit_classifier


@pytest.mark.parametrize("seed", range(2))
def test_fit_head_beats_chance_clearly(seed: int):
    supernet = make_even_supernet(seed)
    data, unseen = learnable_split(200, 1), learnable_split(200, 2, "validation")
    before = {name: p.data.clone() for name, p in supernet.model.named_parameters()}
    fit_classifier(supernet, data)
    assert evaluate(supernet.extract(supernet.full), unseen).low > 0.8, "one in five is chance"
    changed = {n for n, p in supernet.model.named_parameters() if not torch.equal(p.data, before[n])}
    assert changed == {"classifier.weight", "classifier.bias"}
    classifier = supernet.model.get_submodule("classifier")
    assert not classifier._forward_pre_hooks, "nothing is left to collect features for ever"


def test_fit_head_and_change_of_basis_go_together():
    supernet = make_even_supernet()
    data, unseen = learnable_split(200, 1), learnable_split(200, 2, "validation")
    concentrate(supernet, learnable_split(100, 3, "validation"))
    fit_classifier(supernet, data)
    assert evaluate(supernet.extract(supernet.full), unseen).low > 0.8


@pytest.mark.parametrize("factor", [0.5, 20.0])
def test_calibration_finds_a_lower_loss_and_changes_no_answer(factor: float):
    supernet = make_even_supernet()
    fit_classifier(supernet, learnable_split(200, 1), factor)
    validation = learnable_split(100, 3, "validation")
    ends = (supernet.space.largest(), supernet.space.smallest())
    before = [evaluate(supernet.extract(config), validation) for config in ends]
    encoder = {n: p.clone() for n, p in supernet.model.named_parameters() if "classifier" not in n}
    temperature = calibrate_classifier(supernet, validation)
    after = [evaluate(supernet.extract(config), validation) for config in ends]
    assert [result.accuracy for result in after] == [result.accuracy for result in before]
    assert sum(result.loss for result in after) < sum(result.loss for result in before)
    assert calibrate_classifier(supernet, validation) == pytest.approx(1.0, rel=0.03), "once is enough"
    assert (temperature < 1) == (factor < 1)
    assert all(torch.equal(supernet.model.get_parameter(name), tensor) for name, tensor in encoder.items())


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_calibration_divides_the_logits_of_every_family(kind: str):
    supernet, inputs = make_supernet(kind), make_inputs(kind)
    model = supernet.extract(supernet.full)
    with torch.no_grad():
        before = model(**inputs).logits.clone()
        temperature = calibrate_classifier(supernet, make_split(kind))
        assert temperature != pytest.approx(1.0, rel=0.05)
        assert torch.allclose(model(**inputs).logits * temperature, before, atol=1e-5)
