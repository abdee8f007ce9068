"""Who takes part in federated training: local data, device classes, and the submodel that each client trains."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .budget import Budget
from .errors import TrainingError
from .federated import Recipe
from .space import SubmodelConfig
from .supernet import Supernet

SIZE_TOKENS = 32  # the sentence length that MACs are compared at; their shares hardly depend on it

# How much of the full network's parameters (`Recipe.sized_by`) a device trains at most. The shares of devices are the
# published system settings; the caps are our assumption, since the paper gives memory sizes only.
DEVICE_CAPS = {
    "Raspberry Pi 4": 0.4,
    "Raspberry Pi 5": 0.55,
    "Dell XPS 15": 0.7,
    "Jetson AGX Orin": 0.85,
    "V100": 1.0,
}
SYSTEM_SETTINGS: Mapping[str, Mapping[str, float]] = {
    "xsmall": {"Raspberry Pi 4": 0.8, "Raspberry Pi 5": 0.2},
    "small": {"Raspberry Pi 4": 0.4, "Raspberry Pi 5": 0.4, "Dell XPS 15": 0.2},
    "medium": {"Raspberry Pi 5": 0.3, "Dell XPS 15": 0.4, "Jetson AGX Orin": 0.3},
    "large": {"Dell XPS 15": 0.2, "Jetson AGX Orin": 0.4, "V100": 0.4},
    "xlarge": {"Jetson AGX Orin": 0.1, "V100": 0.9},
}


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
    """Who takes part in a round, and with which submodel: the strongest device among them the largest it has room
    for (or the whole network), the weakest the smallest, the others one drawn over what they can train
    (`Recipe.size_power`)."""
    space, rng = supernet.space, np.random.default_rng([recipe.seed, 2, number])
    caps = device_caps(recipe.setting, recipe.clients)
    if not recipe.submodels:
        everyone = rng.choice(recipe.clients, min(recipe.participants, recipe.clients), replace=False)
        return [(client, space.largest()) for client in everyone.tolist()]
    reach = space.reach(recipe.sized_by, SIZE_TOKENS)
    least, most = (share / reach[1] for share in reach)
    progress = min(1.0, number / recipe.shrink_rounds) if recipe.shrink_rounds else 1.0
    floor = most - (most - least) * progress
    # a device below the smallest network trains that one, rather than nothing ever
    able = np.flatnonzero(np.maximum(caps, least) >= min(floor, caps.max()) - 1e-9)
    chosen = rng.choice(able, min(recipe.participants, len(able)), replace=False)
    chosen = chosen[np.argsort(-caps[chosen], kind="stable")]  # the largest device takes the largest network
    plan = []
    for place, client in enumerate(chosen):
        high = most if place == 0 and recipe.full_participant else min(most, max(caps[client], least))
        low = min(floor, high)
        if 0 < place < len(chosen) - 1:
            size = low + (high - low) * rng.random() ** recipe.size_power
        else:
            size = low if place else high
        plan.append((int(client), near_share(supernet, size, recipe.sized_by, rng)))
    return plan


def ends(supernet: Supernet) -> dict[str, SubmodelConfig]:
    """What a scalable checkpoint is judged by: the full network, the same random one of half its size, the smallest."""
    half = near_share(supernet, 0.5, supernet.family.size_metric, np.random.default_rng(0))
    return {"full": supernet.space.largest(), "half": half, "smallest": supernet.space.smallest()}


def near_share(supernet: Supernet, size: float, metric: str, rng: np.random.Generator) -> SubmodelConfig:
    """A random submodel of about `size` (share of the full network's cost) and not above it."""
    space = supernet.space
    smallest, largest = space.reach(metric, SIZE_TOKENS)
    if size * largest >= largest:
        return space.largest()
    if size * largest <= smallest * 1.01:
        return space.smallest()
    window = 0.02
    while True:  # ends: the widest window holds the smallest submodel
        limits: dict[str, Any] = {f"max_{metric}": size * largest, f"min_{metric}": max(0.0, size - window) * largest}
        budget = Budget(**limits, tokens=SIZE_TOKENS)
        if space.count(budget):
            return space.sample(budget, rng)
        window *= 2
