"""The rounds of a run before it begins: who trains which submodel, its costs, and what aggregation alone does."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import TrainingError
from ..space import DEVICE_CAPS, SIZE_TOKENS, SYSTEM_SETTINGS, Axis, SubmodelConfig, near_share
from ..supernet import Supernet
from .recipe import Recipe
from .server import State, Update, aggregate


def partition(labels: torch.Tensor, clients: int, dirichlet: float | None, seed: int) -> list[torch.Tensor]:
    """Indices of every client's examples: IID shards, or label-skewed by Dirichlet(`dirichlet`)."""
    if not 0 < clients <= len(labels):
        raise TrainingError(f"{clients} clients for {len(labels)} examples: give every client at least one")
    if dirichlet is not None and not 0 < dirichlet < math.inf:
        raise TrainingError(f"dirichlet={dirichlet}: give a positive number (small: much skew), or None for IID shards")
    rng = np.random.default_rng([seed, 1])
    if dirichlet is None:
        return [torch.from_numpy(part) for part in np.array_split(rng.permutation(len(labels)), clients)]
    owner = np.empty(len(labels), dtype=np.int64)
    for label in labels.unique():
        rows = rng.permutation(np.flatnonzero(labels.numpy() == int(label)))
        cuts = (np.cumsum(rng.dirichlet([dirichlet] * clients))[:-1] * len(rows)).astype(int)
        for client, part in enumerate(np.split(rows, cuts)):
            owner[part] = client
    # a client without data could never take part: it gets one example of the largest
    empty = np.flatnonzero(np.bincount(owner, minlength=clients) == 0)
    for client in empty.tolist():
        owner[np.flatnonzero(owner == np.bincount(owner).argmax())[0]] = client
    return [torch.from_numpy(np.flatnonzero(owner == client)) for client in range(clients)]


def device_caps(setting: str, clients: int) -> np.ndarray:
    """The share of the full network's parameters that each client can train, by the system setting."""
    if setting not in SYSTEM_SETTINGS:
        raise TrainingError(f"setting {setting!r}: known are {', '.join(SYSTEM_SETTINGS)}")
    shares = SYSTEM_SETTINGS[setting]
    counts = np.diff(np.round(np.cumsum([0.0, *shares.values()]) * clients).astype(int))
    return np.repeat([DEVICE_CAPS[device] for device in shares], counts)


def plan_round(supernet: Supernet, recipe: Recipe, number: int) -> list[tuple[int, SubmodelConfig]]:
    """Who takes part in a round, and with which submodel.

    The strongest device among them gets the largest that it has room for (or the full network), the weakest the
    smallest, each other one drawn from what it can train; `Recipe.sizes` and `Recipe.one_strong` change this.
    """
    space, rng = supernet.space, np.random.default_rng([recipe.seed, 2, recipe.first_round + number])
    caps = device_caps(recipe.setting, recipe.clients)
    chosen = _participants(caps, recipe, rng)
    if not recipe.submodels:
        return [(client, space.largest()) for client in chosen.tolist()]
    reach = space.sized.reach(recipe.sized_by)
    least, most = (share / reach[1] for share in reach)
    chosen = chosen[np.argsort(-caps[chosen], kind="stable")]  # the largest device takes the largest network
    plan = []
    for place, client in enumerate(chosen):
        # a device below the smallest network trains that one, rather than nothing ever
        high = most if place == 0 and recipe.full_participant else min(most, max(caps[client], least))
        if place == 0 or recipe.sizes == "cap":
            size = high
        elif recipe.sizes == "log":
            size = least * (high / least) ** rng.random()
        elif place == len(chosen) - 1:
            size = least
        else:
            size = least + (high - least) * rng.random() ** recipe.size_power
        plan.append((int(client), near_share(supernet.space, size, rng, recipe.sized_by)))
    return plan


def _participants(caps: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    """The clients of a round, drawn from those with these caps."""
    number = min(recipe.participants, recipe.clients)
    strong, weak = np.flatnonzero(caps == caps.max()), np.flatnonzero(caps < caps.max())
    if not recipe.one_strong or len(weak) < number - 1:
        return rng.choice(recipe.clients, number, replace=False)
    return np.concatenate([rng.choice(strong, 1), rng.choice(weak, number - 1, replace=False)])


def steps_of(supernet: Supernet, recipe: Recipe, config: SubmodelConfig) -> int | None:
    """Batches in a local epoch of a client that trains `config`; None: as many as its data make."""
    if recipe.local_steps is None or recipe.more_steps == 1:
        return recipe.local_steps
    full, own = (supernet.cost(size, SIZE_TOKENS).macs or 1 for size in (supernet.space.largest(), config))
    return round(recipe.local_steps * min(recipe.more_steps, full / own))


BYTES_PER_VALUE = 4  # weights travel as float32, both ways
TRAINING_FACTOR = 3  # a backward pass takes about twice the products of a forward pass


@dataclass(frozen=True)
class ClientCost:
    """One client in one round: `bytes_down` and `bytes_up` of weights, and the MACs of its training.

    A submodel is sent down and its trained part sent back: look-up tables that are frozen are neither. Adam's moments,
    where they are carried, are two more values for each weight, down from the second round on. `macs` are three
    times those of a forward pass, over all examples that the client trains on; of text at 32 tokens. Students are
    expected values: those drawn cost as much less than the client's network as they have fewer parameters, and the
    logarithm of these is uniform between the smallest network and the client's.
    """

    client: int
    parameters: int
    bytes_down: int
    bytes_up: int
    macs: int


def count_round(supernet: Supernet, recipe: Recipe, number: int, examples: Sequence[int]) -> list[ClientCost]:
    """What round `number` (from 0) costs each of its clients, who have `examples[client]` examples."""
    whole = supernet.costs.patches
    seen = None if whole is None else recipe.patches_in(number, whole) or whole
    tokens = SIZE_TOKENS if seen is None else 1 + seen
    costs = []
    for client, config in plan_round(supernet, recipe, number):
        cost = supernet.cost(config)
        sent = cost.encoder_parameters if recipe.freeze_tables else cost.parameters
        steps = steps_of(supernet, recipe, config)
        trained = examples[client] if steps is None else steps * recipe.batch_size
        if recipe.more_steps == 1:
            trained = min(trained, examples[client])
        one = supernet.costs.macs(config, tokens) + _students_macs(supernet, recipe, config, tokens)
        macs = TRAINING_FACTOR * one * trained * recipe.local_epochs
        up = sent * BYTES_PER_VALUE * (3 if recipe.carry_moments else 1)
        down = up if number else sent * BYTES_PER_VALUE
        costs.append(ClientCost(client, cost.parameters, down, up, macs))
    return costs


def _students_macs(supernet: Supernet, recipe: Recipe, config: SubmodelConfig, tokens: int) -> int:
    """Expected MACs of a forward pass of all students on one example, inside the network `config` of a client."""
    smallest = supernet.space.smallest()
    least, most = (supernet.cost(size).parameters for size in (smallest, config))
    if not recipe.students or least >= most:
        return 0
    middle = math.sqrt(least * most)
    # the mean of a value whose logarithm is uniform
    lower, upper = ((high - low) / math.log(high / low) for low, high in ((least, middle), (middle, most)))
    drawn = (upper + (recipe.students - 1) * lower) / most * supernet.costs.macs(config, tokens)
    return round(drawn) + supernet.costs.macs(smallest, tokens)


def count_run(supernet: Supernet, recipe: Recipe, labels: torch.Tensor) -> list[list[ClientCost]]:
    """What every round of a run on training examples with these labels costs its clients (see `count_round`)."""
    owned = [len(part) for part in partition(labels, recipe.clients, recipe.dirichlet, recipe.seed)]
    return [count_round(supernet, recipe, number, owned) for number in range(recipe.rounds)]


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
            if not parameter.present(config.widths(0)):
                continue
            sent = parameter.part(weights[name], config.widths(0), supernet.slicing_heads)
            updates.append(Update(config, {name: sent.clone()}, 1, 0.0))
        change, _ = aggregate(weights, [parameter], supernet.slicing_heads, updates, recipe.divide)
        weights[name] += change[name]
        sizes.append(weights[name].norm(dim=1))
    return torch.stack(sizes) / sizes[0]
