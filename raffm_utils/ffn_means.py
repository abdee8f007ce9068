"""FFN neurons in an order, and with helpers, that let a narrowed layer keep the mean of what the full one puts out."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from transformers.activations import ACT2FN

from .data import Split
from .families import Axis, Use
from .supernet import Supernet

CONSTANT = 3.0  # what a helper puts into the activation function, whatever its input


@torch.no_grad()
def keep_ffn_means(supernet: Supernet, data: Split) -> None:
    """Sort FFN neurons by how much what they put out varies, and let every width keep its mean; in place.

    A neuron that is cut off takes the mean of its output along, and most of the damage is in that (as in FLAP, An et
    al. 2023, where the bias makes up for it). One bias cannot serve all widths. So in every step between two choices of
    width, one neuron that varies least is made into a helper with a constant output, which takes the mean of the other
    neurons of that step away again; the bias has them all. The full network changes by no more than those few neurons
    varied. `data` are a few hundred examples.
    """
    layers = [_layer(supernet, layer) for layer in range(supernet.layers)]
    config = supernet.model.config
    constant = float(ACT2FN[getattr(config, "hidden_act", None) or config.activation](torch.tensor(CONSTANT)))
    moments = _moments(supernet, [second for _, second in layers], data)
    for (first, second), (mean, variance), choices in zip(layers, moments, supernet.space.ffn, strict=True):
        steps = list(pairwise(sorted(choices)))
        order = (variance.sqrt() * second.weight.norm(dim=0)).argsort(descending=True)
        varying, helpers = order[: len(order) - len(steps)], order[len(order) - len(steps) :]
        second.bias.add_(second.weight[:, helpers] @ mean[helpers])
        first.weight[helpers] = 0.0
        first.bias[helpers] = CONSTANT
        layout, taken = [varying[: min(choices)]], min(choices)
        for helper, (low, high) in zip(helpers, steps, strict=True):
            part = varying[taken : taken + high - low - 1]
            shift = second.weight[:, part] @ mean[part]
            second.bias.add_(shift)
            second.weight[:, helper] = -shift / constant
            layout += [part, helper[None]]
            taken += len(part)
        _permute(first, second, torch.cat(layout))


def _permute(first: nn.Linear, second: nn.Linear, order: torch.Tensor) -> None:
    first.weight.copy_(first.weight[order])
    first.bias.copy_(first.bias[order])
    second.weight.copy_(second.weight[:, order])


def _layer(supernet: Supernet, layer: int) -> tuple[nn.Linear, nn.Linear]:
    """The two linear maps around the neurons of a layer."""
    inside = [p for p in supernet.parameters if p.layer == layer and p.use is not Use.NEVER and Axis.FFN in p.axes]
    names = [next(p.name for p in inside if p.axes[place] is Axis.FFN and len(p.axes) == 2) for place in (0, 1)]
    first, second = (supernet.model.get_submodule(name.rpartition(".")[0]) for name in names)
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    return first, second


def _moments(supernet: Supernet, modules: Sequence[nn.Linear], data: Split) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean and variance of every neuron, over all tokens of all examples."""
    sums = [[torch.zeros(module.in_features, dtype=torch.float64) for _ in range(2)] for module in modules]
    counts = [0] * len(modules)

    def watch(place: int, values: torch.Tensor) -> None:
        rows = values.flatten(0, -2).double()
        sums[place][0] += rows.sum(0)
        sums[place][1] += rows.square().sum(0)
        counts[place] += len(rows)

    handles = [
        module.register_forward_pre_hook(lambda _, inputs, place=place: watch(place, inputs[0]))
        for place, module in enumerate(modules)
    ]
    try:
        for inputs, _ in data.batches(100):
            supernet.model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    found = [(total / count, square / count) for (total, square), count in zip(sums, counts, strict=True)]
    return [(mean.float(), (square - mean.square()).clamp(min=0).float()) for mean, square in found]
