"""What a federated round costs its clients: bytes on the wire and MACs, counted from the plan, without training."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .federated import Recipe
from .participation import SIZE_TOKENS, partition, plan_round
from .supernet import Supernet

BYTES_PER_VALUE = 4  # weights travel as float32, both ways
TRAINING_FACTOR = 3  # a backward pass takes about twice the products of a forward pass


@dataclass(frozen=True)
class ClientCost:
    """One client in one round: `bytes_down` and `bytes_up` of weights, and the MACs of its training.

    A submodel is sent down and its trained part sent back: look-up tables that are frozen are neither. `macs` are three
    times those of a forward pass, over all examples that the client trains on; of text at 32 tokens.
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
        steps = recipe.local_steps
        trained = examples[client] if steps is None else min(examples[client], steps * recipe.batch_size)
        macs = TRAINING_FACTOR * supernet.costs.macs(config, tokens) * trained * recipe.local_epochs
        costs.append(ClientCost(client, cost.parameters, sent * BYTES_PER_VALUE, sent * BYTES_PER_VALUE, macs))
    return costs


def count_run(supernet: Supernet, recipe: Recipe, labels: torch.Tensor) -> list[list[ClientCost]]:
    """What every round of a run on training examples with these labels costs its clients (see `count_round`)."""
    owned = [len(part) for part in partition(labels, recipe.clients, recipe.dirichlet, recipe.seed)]
    return [count_round(supernet, recipe, number, owned) for number in range(recipe.rounds)]
