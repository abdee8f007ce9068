"""Whatever width an FFN is cut to, the mean of what it puts out stays, and the full network stays as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from conftest import FAMILY_NAMES, make_split, make_supernet
from helpers.federated import EVEN_SPACE, learnable_split, make_even_supernet
from torch import nn
from transformers import PreTrainedModel

from raffm_utils.data import Split
from raffm_utils.federated import CONSTANT, keep_ffn_means
from raffm_utils.space import Axis, SubmodelConfig
from raffm_utils.supernet import Supernet

WIDTHS = EVEN_SPACE["inter_hidden_space"]  # 64 to 32 in steps of 8


@contextmanager
def outputs_of(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    seen: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda _, __, output: seen.append(output.detach().flatten(0, -2)))
    yield seen
    handle.remove()


def first_ffn(model: PreTrainedModel, data: Split) -> torch.Tensor:
    """What the first layer's FFN puts out for every token; its input does not depend on any FFN width."""
    with outputs_of(model.vit.layers[0].mlp) as seen, torch.no_grad():
        for inputs, _ in data.batches(64):
            model(**inputs)
    return torch.cat(seen)


def narrowed(supernet: Supernet, width: int) -> PreTrainedModel:
    full = supernet.full
    return supernet.extract(SubmodelConfig(full.hidden, full.attention, (width,) * len(full.ffn)))


@pytest.fixture
def lively() -> Supernet:
    """Weights large enough that FFN outputs have means worth keeping; four neurons of each layer say nothing."""
    supernet = make_even_supernet()
    with torch.no_grad():
        for layer in supernet.model.vit.layers:
            layer.mlp.fc1.bias.uniform_(-1, 2, generator=torch.Generator().manual_seed(3))
            layer.mlp.fc2.weight.mul_(20)
            layer.mlp.fc2.weight[:, [5, 11, 40, 63]] = 0.0
    return supernet


def test_every_width_keeps_the_mean_of_the_full_ffn(lively: Supernet):
    data = learnable_split(100, 1)
    mean = first_ffn(lively.extract(lively.full), data).mean(0)
    off_before = [(first_ffn(narrowed(lively, width), data).mean(0) - mean).norm() for width in WIDTHS]
    keep_ffn_means(lively, data)
    for width, before in zip(WIDTHS, off_before, strict=True):
        off = (first_ffn(narrowed(lively, width), data).mean(0) - mean).norm()
        assert off < 1e-4 * mean.norm(), width
        if width < 64:
            assert before > 0.1 * mean.norm(), "else there was nothing to keep"


def test_the_full_network_stays_as_it_was(lively: Supernet):
    data = learnable_split(40, 2)
    inputs, _ = next(iter(data.batches(40)))
    with torch.no_grad():
        before = lively.extract(lively.full)(**inputs).logits
        keep_ffn_means(lively, data)
        after = lively.extract(lively.full)(**inputs).logits
    assert torch.allclose(before, after, atol=1e-4)


def test_the_neurons_that_vary_most_come_first_and_a_helper_ends_every_step(lively: Supernet):
    data = learnable_split(100, 1)
    keep_ffn_means(lively, data)
    mlp = lively.model.vit.layers[1].mlp
    helpers = [39, 47, 55, 63]
    assert all(not mlp.fc1.weight[place].any() and mlp.fc1.bias[place] == CONSTANT for place in helpers)
    with torch.no_grad():
        seen: list[torch.Tensor] = []
        handle = mlp.fc2.register_forward_pre_hook(lambda _, x: seen.append(x[0].flatten(0, -2)))
        for inputs, _ in data.batches(64):
            lively.model(**inputs)
        handle.remove()
    influence = torch.cat(seen).std(0) * mlp.fc2.weight.norm(dim=0)
    rest = influence[[place for place in range(64) if place not in helpers]]
    # the order was measured before the layer below had changed: by the full network, which has not
    assert (rest[:-1] - rest[1:]).min() > -1e-3 * rest.max()


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_families_keep_their_means(kind: str):
    supernet, data = make_supernet(kind), make_split(kind, examples=40)
    name = next(p.name for p in supernet.parameters if p.layer == 0 and p.axes == (Axis.HIDDEN, Axis.FFN))
    with torch.no_grad():
        for parameter, (_, tensor) in zip(supernet.parameters, supernet.model.named_parameters(), strict=True):
            if parameter.layer == 0 and parameter.axes == (Axis.FFN,):
                tensor.uniform_(-1, 2, generator=torch.Generator().manual_seed(3))
    keep_ffn_means(supernet, data)
    means = []
    for width in supernet.space.ffn[0]:
        full = supernet.full
        model = supernet.extract(SubmodelConfig(full.hidden, full.attention, (width, *full.ffn[1:])))
        with outputs_of(model.get_submodule(name.rpartition(".")[0])) as seen, torch.no_grad():
            for inputs, _ in data.batches(64):
                model(**inputs)
        means.append(torch.cat(seen).mean(0))
    assert len(means) > 1
    for mean in means[1:]:
        assert torch.allclose(mean, means[0], atol=1e-5)
