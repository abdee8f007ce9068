"""Block influence against what can be computed by hand."""

import pytest
import torch
from conftest import FAMILY_NAMES, make_split, make_supernet
from torch import nn

from raffm_utils.errors import ElasticSpaceError
from raffm_utils.federated import block_influence, least_influential, with_zero
from raffm_utils.space import Axis

LAST = {  # the linear layers that add to the residual stream
    "vit": ("vit.layers.{}.attention.o_proj", "vit.layers.{}.mlp.fc2"),
    "bert": ("bert.encoder.layer.{}.attention.output.dense", "bert.encoder.layer.{}.output.dense"),
    "roberta": ("roberta.encoder.layer.{}.attention.output.dense", "roberta.encoder.layer.{}.output.dense"),
    "distilbert": ("distilbert.transformer.layer.{}.attention.out_lin", "distilbert.transformer.layer.{}.ffn.lin2"),
}


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_a_block_that_adds_nothing_has_no_influence(kind):
    supernet = make_supernet(kind)
    silent = {(Axis.ATTENTION, 1), (Axis.FFN, 2)}
    for axis, layer in silent:
        module = supernet.model.get_submodule(LAST[kind][axis is Axis.FFN].format(layer))
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
    influence = block_influence(supernet, make_split(kind))
    assert len(influence) == 2 * supernet.layers
    for block, value in influence.items():
        assert value == pytest.approx(0, abs=1e-6) if block in silent else value > 1e-4
    assert least_influential(influence, Axis.ATTENTION, 1) == (1,)
    assert least_influential(influence, Axis.FFN, 1) == (2,)


def test_it_is_the_divergence_of_the_answers():
    supernet, split = make_supernet("vit"), make_split("vit", examples=230)  # three batches
    influence = block_influence(supernet, split)
    module = supernet.model.vit.layers[1].mlp.fc2
    with torch.no_grad():
        expected = supernet.model(**split.inputs).logits.softmax(1)
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
        found = supernet.model(**split.inputs).logits.log_softmax(1)
    by_hand = nn.functional.kl_div(found, expected, reduction="batchmean")
    assert influence[Axis.FFN, 1] == pytest.approx(float(by_hand), rel=1e-4)


def test_layers_become_choices():
    assert with_zero((8, 4), 3, (1,)) == ((8, 4), (8, 4, 0), (8, 4))
    influence = {(Axis.FFN, layer): value for layer, value in enumerate((0.5, 0.1, 0.3))}
    assert least_influential(influence, Axis.FFN, 2) == (1, 2)
    with pytest.raises(ElasticSpaceError, match="number=4: give 0 to 3"):
        least_influential(influence, Axis.FFN, 4)
