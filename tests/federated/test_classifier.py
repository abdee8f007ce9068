"""The classifier: fitted to features it beats chance, and scaled its probabilities can be believed."""

import pytest
import torch
from conftest import FAMILY_NAMES, make_inputs, make_split, make_supernet
from helpers.federated import learnable_split, make_even_supernet, one_thread  # noqa: F401

from raffm_utils.evaluation import evaluate
from raffm_utils.federated import calibrate_classifier, concentrate, fit_classifier


@pytest.mark.parametrize("seed", range(2))
def test_the_fitted_classifier_beats_chance_clearly(seed: int):
    supernet = make_even_supernet(seed)
    data, unseen = learnable_split(200, 1), learnable_split(200, 2, "validation")
    before = {name: p.data.clone() for name, p in supernet.model.named_parameters()}
    fit_classifier(supernet, data)
    assert evaluate(supernet.extract(supernet.full), unseen).low > 0.8, "one in five is chance"
    changed = {n for n, p in supernet.model.named_parameters() if not torch.equal(p.data, before[n])}
    assert changed == {"classifier.weight", "classifier.bias"}
    classifier = supernet.model.get_submodule("classifier")
    assert not classifier._forward_pre_hooks, "nothing is left to collect features for ever"


def test_fitting_and_a_change_of_basis_go_together():
    supernet = make_even_supernet()
    data, unseen = learnable_split(200, 1), learnable_split(200, 2, "validation")
    concentrate(supernet, learnable_split(100, 3, "validation"))
    fit_classifier(supernet, data)
    assert evaluate(supernet.extract(supernet.full), unseen).low > 0.8


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_every_family_is_fitted_at_its_last_linear_layer(kind: str):
    """Labels that a random linear layer gives to the features can be learned from them by least squares."""
    supernet, data = make_supernet(kind), make_split(kind, 200)
    last = supernet.model.get_submodule(supernet.family.classifier)
    assert tuple(last.weight.shape) == (5, 48), "five labels, hidden width 48"
    before = {n: p.clone() for n, p in supernet.model.named_parameters()}
    with torch.no_grad():
        logits = supernet.model(**data.inputs).logits
        data.labels = ((logits - logits.mean(0)) / logits.std(0)).argmax(1)  # about as many of each
    fit_classifier(supernet, data, ridge=1e-4)
    most_frequent = float(data.labels.bincount().max()) / len(data)
    assert evaluate(supernet.model, data).low > 1.3 * most_frequent, "far better than one answer for all"
    changed = {n for n, p in supernet.model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {f"{supernet.family.classifier}.{part}" for part in ("weight", "bias")}


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
