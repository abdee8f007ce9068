"""FFN neurons in an order, and with helpers, that let a narrowed layer keep the mean of what the full one puts out."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from transformers.activations import ACT2FN

from .data import Split
from .families import Axis, Use
from .principal import hooks
from .supernet import Group, Supernet

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
    scores: dict[Group, torch.Tensor] = {}
    config = supernet.model.config
    constant = float(ACT2FN[getattr(config, "hidden_act", None) or config.activation](torch.tensor(CONSTANT)))
    moments = _moments(supernet, [name for _, name in layers], data)
    for layer, (names, (mean, variance), choices) in enumerate(zip(layers, moments, supernet.space.ffn, strict=True)):
        first, second = (supernet.model.get_submodule(name) for name in names)
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
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
        scores[Axis.FFN, layer, None] = torch.cat(layout).argsort().neg().float()  # the first has the highest
    supernet.reorder(scores)


def _layer(supernet: Supernet, layer: int) -> tuple[str, str]:
    """Names of the two linear maps around the neurons of a layer."""
    inside = [p for p in supernet.parameters if p.layer == layer and p.use is not Use.NEVER and Axis.FFN in p.axes]
    first, second = (next(p.name for p in inside if len(p.axes) == 2 and p.axes[place] is Axis.FFN) for place in (0, 1))
    return first.rpartition(".")[0], second.rpartition(".")[0]


def _moments(supernet: Supernet, modules: Sequence[str], data: Split) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean and variance of all that every module takes in, over all tokens of all examples."""
    sums = {module: torch.zeros(3, 1, dtype=torch.float64) for module in modules}

    def add(module: str, values: torch.Tensor) -> None:
        rows = values.flatten(0, -2).double()
        sums[module] = sums[module] + torch.stack([torch.ones_like(rows).sum(0), rows.sum(0), rows.square().sum(0)])

    with hooks(supernet) as watch:
        for module in modules:
            watch(module, lambda x, y, module=module: add(module, x))  # type: ignore[misc]
        for inputs, _ in data.batches(100):
            supernet.model(**inputs)
    moments = [(total / count, square / count) for count, total, square in sums.values()]
    return [(mean.float(), (square - mean.square()).clamp(min=0).float()) for mean, square in moments]
