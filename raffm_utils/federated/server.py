"""The server: checks the updates of clients and averages them into the supernet.

`client.py` is the other end.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from ..space import Parameter, SubmodelConfig
from ..supernet import Supernet
from .recipe import RULES, Recipe

State = dict[str, torch.Tensor]
Moments = tuple[State, State]  # Adam's mean gradient, and its mean square


@dataclass(frozen=True)
class Update:
    """A client's result: the submodel it trained, its new weights, the number of examples, and its weight.

    `state` goes by the names that parameters have in the supernet: in a submodel without some of the layers, those
    behind them have other numbers. `moments`, by the same names, come with it where the recipe carries them.
    """

    config: SubmodelConfig
    state: State
    examples: int
    loss: float
    weight: float = 1.0
    moments: Moments | None = None


def present(parameters: Iterable[Parameter], config: SubmodelConfig) -> list[Parameter]:
    """The parameters that a submodel has, in the order in which it has them."""
    return [p for p in parameters if p.present(config.widths(p.layer))]


def fault(update: Update, config: SubmodelConfig, parameters: Iterable[Parameter]) -> str | None:
    """Check an update against the submodel `config` that was sent; returns what is wrong with it, or None."""
    sent = {p.name: p.narrowed_shape(config.widths(p.layer)) for p in present(parameters, config)}
    kinds = zip(("", "mean gradient of ", "mean square of "), (update.state, *(update.moments or ())), strict=False)
    for kind, state in kinds:
        if state.keys() != sent.keys():
            return f"{kind}other parameters than were sent ({len(state)} instead of {len(sent)})"
        for name, shape in sent.items():
            if state[name].shape != shape:
                return f"{kind}{name} of shape {tuple(state[name].shape)}, not {shape}"
            if not bool(state[name].isfinite().all()):
                return f"{kind}{name} is not finite"
    for name, square in update.moments[1].items() if update.moments else ():
        if float(square.min()) < 0:
            return f"mean square of {name} is negative"
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
    everyone = sum(update.weight for update in updates)
    expected = everyone if expected_weight is None else expected_weight
    for p in parameters:
        total, count = torch.zeros_like(state[p.name]), torch.zeros_like(state[p.name])
        for update in updates:
            widths = update.config.widths(p.layer)
            if not p.present(widths):
                continue
            part = p.part(total, widths, heads)
            part += update.weight * (update.state[p.name].view(part.shape) - p.part(state[p.name], widths, heads))
            p.part(count, widths, heads).add_(update.weight)
        change[p.name] = torch.where(count > 0, RULES[divide](total, count, everyone, expected, state[p.name]), 0)
        coverage[p.name] = count
    return change, coverage


def moments_update(supernet: Supernet, moments: Moments, updates: Sequence[Update]) -> None:
    """Replace the server's moments by the weighted mean of those of the clients, where any covered an entry."""
    for place, state in enumerate(moments):
        sent = [replace(update, state=update.moments[place]) for update in updates if update.moments is not None]
        change, _ = aggregate(state, supernet.parameters, supernet.slicing_heads, sent)
        for name, tensor in state.items():
            tensor.add_(change[name])


def narrowed_moments(supernet: Supernet, moments: Moments, config: SubmodelConfig) -> Moments:
    """The part of the server's moments that goes with a submodel: copies, in the order of its parameters."""

    def narrowed(state: State) -> State:
        parts = {}
        for p in present(supernet.parameters, config):
            widths = config.widths(p.layer)
            part = p.part(state[p.name], widths, supernet.slicing_heads)
            parts[p.name] = part.reshape(p.narrowed_shape(widths)).clone(memory_format=torch.contiguous_format)
        return parts

    first, second = (narrowed(state) for state in moments)
    return first, second


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
