"""The server: checks the updates of clients and averages them into the supernet.

`client.py` is the other end.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..space import Parameter, SubmodelConfig
from ..supernet import Supernet
from .recipe import RULES, Recipe

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Update:
    """A client's result: the submodel it trained, its new weights, the number of examples, and its weight."""

    config: SubmodelConfig
    state: State
    examples: int
    loss: float
    weight: float = 1.0


def fault(update: Update, sent: Mapping[str, torch.Tensor]) -> str | None:
    """Check an update against the weights that were `sent`; returns what is wrong with it, or None."""
    if update.state.keys() != sent.keys():
        return f"other parameters than were sent ({len(update.state)} instead of {len(sent)})"
    for name, tensor in sent.items():
        if update.state[name].shape != tensor.shape:
            return f"{name} of shape {tuple(update.state[name].shape)}, not {tuple(tensor.shape)}"
        if not bool(update.state[name].isfinite().all()):
            return f"{name} is not finite"
    return None


def aggregate(
    state: State,
    parameters: Iterable[Parameter],
    heads: int | None,
    updates: Sequence[Update],
    divide: str = "coverage",
    expected_weight: float | None = None,
) -> tuple[State, dict[str, torch.Tensor]]:
    """Weighted mean change of every entry over the clients that covered it, and the sum of their weights (FedAvg).

    `divide` is as in `Recipe`; `expected_weight` is the total weight in an average round, by default that of these
    updates. An entry that no client covered has change 0.
    """
    change, coverage = {}, {}
    present = sum(update.weight for update in updates)
    expected = present if expected_weight is None else expected_weight
    for p in parameters:
        total, count = torch.zeros_like(state[p.name]), torch.zeros_like(state[p.name])
        for update in updates:
            widths = update.config.widths(p.layer)
            part = p.part(total, widths, heads)
            part += update.weight * (update.state[p.name].view(part.shape) - p.part(state[p.name], widths, heads))
            p.part(count, widths, heads).add_(update.weight)
        change[p.name] = torch.where(count > 0, RULES[divide](total, count, present, expected, state[p.name]), 0)
        coverage[p.name] = count
    return change, coverage


def server_update(
    supernet: Supernet, momentum: State, updates: list[Update], recipe: Recipe, expected_weight: float | None = None
) -> None:
    """Apply the clients' mean change to the covered entries, with momentum; all others stay unchanged.

    `expected_weight` is as in `aggregate`.
    """
    weights = {name: p.data for name, p in supernet.model.named_parameters()}
    change, coverage = aggregate(
        weights, supernet.parameters, supernet.slicing_heads, updates, recipe.divide, expected_weight
    )
    for name, weight in weights.items():
        covered = coverage[name] > 0
        momentum[name].copy_(
            torch.where(covered, recipe.server_momentum * momentum[name] + change[name], momentum[name])
        )
        weight.add_(torch.where(covered, momentum[name], 0))
