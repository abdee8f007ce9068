"""The effect of the aggregation rule alone: rounds in which clients send back exactly what they received."""

import torch

from ..space import Axis
from ..supernet import Supernet
from .recipe import Recipe
from .rounds import plan_round
from .server import State, Update, aggregate


def idle_rounds(supernet: Supernet, recipe: Recipe, rounds: int) -> torch.Tensor:
    """Size of the first layer's FFN weights after each round in which no client learned anything.

    Shape (rounds + 1, FFN width): for every neuron the root mean square of its incoming weights, relative to the
    start. The ideal is 1 everywhere. The supernet is not modified.
    """
    parameter = next(p for p in supernet.parameters if p.layer == 0 and p.axes == (Axis.FFN, Axis.HIDDEN))
    name, start = parameter.name, supernet.model.get_parameter(parameter.name).detach()
    weights: State = {name: start.clone()}
    sizes = [start.norm(dim=1)]
    for number in range(rounds):
        updates = []
        for _, config in plan_round(supernet, recipe, number):
            sent = parameter.region(weights[name], config.widths(0), supernet.slicing_heads)
            updates.append(Update(config, {name: sent.clone()}, 1, 0.0))
        change, _ = aggregate(weights, [parameter], supernet.slicing_heads, updates, recipe.divide)
        weights[name] += change[name]
        sizes.append(weights[name].norm(dim=1))
    return torch.stack(sizes) / sizes[0]
