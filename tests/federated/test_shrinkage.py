"""Rounds without learning leave weights alone; under the published rule they shrink what few clients cover."""

from dataclasses import replace

import numpy as np
import torch
from helpers.federated import RECIPE, make_even_supernet

from raffm_utils.federated import idle_rounds, plan_round

IDLE = replace(RECIPE, setting="small", full_participant=True)


def test_dividing_by_coverage_leaves_weights_as_they_are():
    supernet = make_even_supernet()
    before = {name: p.detach().clone() for name, p in supernet.model.named_parameters()}
    sizes = idle_rounds(supernet, IDLE, 5)
    assert sizes.shape == (6, 64)
    assert torch.allclose(sizes, torch.ones(()))
    assert all(torch.equal(p, before[name]) for name, p in supernet.model.named_parameters())


def test_dividing_by_all_keeps_the_share_of_clients_that_have_an_entry():
    supernet = make_even_supernet()
    sizes = idle_rounds(supernet, replace(IDLE, divide="all"), 3)
    widths = [(config.hidden, config.ffn[0]) for _, config in plan_round(supernet, IDLE, 0)]
    name = "vit.layers.0.mlp.fc1.weight"
    weight = supernet.model.get_parameter(name).detach().numpy()
    cover = np.zeros_like(weight)
    for hidden, ffn in widths:
        cover[:ffn, :hidden] += 1 / len(widths)
    expected = np.linalg.norm(weight * cover, axis=1) / np.linalg.norm(weight, axis=1)
    assert np.allclose(sizes[1].numpy(), expected, atol=1e-5)
    assert sizes[3, -1] < 0.1 < sizes[3, 0]
