"""The server: checks the updates of clients and averages them into the supernet.

`client.py` is the other end.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

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


class Asked(NamedTuple):
    """What the server knows of a client in a round, to check its answer against.

    `weight` is how much the client said that it counts; `most_change` is the most that any of its weights can have
    moved, by the rate and the number of its steps; `moments` says whether it has to send those of Adam.
    """

    config: SubmodelConfig
    weight: float = 1.0
    most_change: float = math.inf
    moments: bool = False


def fault(update: object, asked: Asked, supernet: Supernet) -> str | None:
    """Check a client's answer against what it was asked; returns what is wrong with it, or None.

    Nothing of it is believed: types, widths, numbers, the form of every tensor, and how far the weights moved.
    """
    if isinstance(update, str):
        return update  # why it has none
    if not isinstance(update, Update):
        return f"a {type(update).__name__} instead of an update"
    if update.config != asked.config:
        return f"trained {update.config}, not what it was sent"
    if not _is_number(update.weight) or update.weight != asked.weight:
        return f"weight {update.weight!r}, but it said {asked.weight!r}"
    if not _is_number(update.loss) or update.loss < 0:
        return f"loss {update.loss!r}: not a number from 0"
    if not isinstance(update.examples, int) or update.examples < 1:
        return f"examples {update.examples!r}: not a whole number from 1"
    if asked.moments != (update.moments is not None):
        return f"moments of Adam are {'missing' if asked.moments else 'there, but were not asked for'}"
    return _wrong_tensors(update, asked, supernet)


def _wrong_tensors(update: Update, asked: Asked, supernet: Supernet) -> str | None:
    sent = present(supernet.parameters, asked.config)
    weights = dict(supernet.model.named_parameters())
    kinds = zip(("", "mean gradient of ", "mean square of "), (update.state, *(update.moments or ())), strict=False)
    for kind, state in kinds:
        if not isinstance(state, dict) or state.keys() != {p.name for p in sent}:
            number = len(state) if isinstance(state, dict) else 0
            return f"{kind}other parameters than were sent ({number} instead of {len(sent)})"
        for p in sent:
            widths = asked.config.widths(p.layer)
            if wrong := _not_as_sent(state[p.name], p.narrowed_shape(widths), weights[p.name].dtype):
                return f"{kind}{p.name} {wrong}"
            if kind:
                continue
            before = p.part(weights[p.name].detach(), widths, supernet.slicing_heads)
            moved = float((state[p.name].view(before.shape) - before).abs().max())
            if moved > asked.most_change:
                return f"{p.name} moved by {moved:.3g}, more than its steps can: {asked.most_change:.3g}"
    for name, square in update.moments[1].items() if update.moments else ():
        if float(square.min()) < 0:
            return f"mean square of {name} is negative"
    return None


def _not_as_sent(tensor: object, shape: tuple[int, ...], dtype: torch.dtype) -> str | None:
    if not isinstance(tensor, torch.Tensor):
        return f"is a {type(tensor).__name__}, not a tensor"
    if tensor.layout is not torch.strided or tensor.dtype != dtype:
        return f"is {tensor.dtype} ({tensor.layout}), not {dtype}"
    if tuple(tensor.shape) != shape:
        return f"of shape {tuple(tensor.shape)}, not {shape}"
    return None if bool(tensor.isfinite().all()) else "is not finite"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


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
