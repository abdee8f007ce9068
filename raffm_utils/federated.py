"""Federated training of a supernet: clients of very different size train submodels of one network.

`local_update` and `aggregate` know nothing of the simulation around them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .budget import Budget
from .data import Split
from .errors import TrainingError
from .families import Parameter
from .space import SubmodelConfig
from .supernet import Supernet

State = dict[str, torch.Tensor]

# How much of the full network's parameters a device trains at most. The shares of devices are the
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


@dataclass(frozen=True)
class Recipe:
    """All choices of a federated run; two runs of one recipe give the same weights, bit for bit.

    `dirichlet` is the concentration of the label skew between clients, None for IID shards. In the first
    `shrink_rounds` rounds the smallest width drawn falls from the full network to the smallest submodel;
    devices that cannot train networks of the present size wait. The learning rate
    follows a cosine down to `final_learning_rate_share` over `cosine_rounds`, and in the last
    `cooldown_rounds` of the run also falls linearly to 0. The first `local_warmup_steps` of every local
    training rise linearly to the learning rate: a fresh Adam takes its largest steps first.
    """

    setting: str = "large"
    clients: int = 100
    participants: int = 10
    rounds: int = 90
    local_epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 3e-5
    final_learning_rate_share: float = 0.05
    cosine_rounds: int = 160
    cooldown_rounds: int = 30
    local_warmup_steps: int = 5
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    horizontal_flip: bool = False
    dirichlet: float | None = None
    shrink_rounds: int = 0
    server_momentum: float = 0.5
    autocast: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("clients", "participants", "rounds", "local_epochs", "batch_size", "cosine_rounds"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name}={getattr(self, name)}: give at least 1")


@dataclass(frozen=True)
class Update:
    """What a client sends back: which submodel it trained, its new weights, on how many examples."""

    config: SubmodelConfig
    state: State
    examples: int
    loss: float


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
    for, the weakest the smallest, the others one drawn evenly over the sizes that their device can train."""
    space, rng = supernet.space, np.random.default_rng([recipe.seed, 2, number])
    caps = device_caps(recipe.setting, recipe.clients)
    least, most = (share / space.reach("parameters")[1] for share in space.reach("parameters"))
    progress = min(1.0, number / recipe.shrink_rounds) if recipe.shrink_rounds else 1.0
    floor = most - (most - least) * progress
    # a device below the smallest network trains that one, rather than nothing ever
    able = np.flatnonzero(np.maximum(caps, least) >= min(floor, caps.max()) - 1e-9)
    chosen = rng.choice(able, min(recipe.participants, len(able)), replace=False)
    chosen = chosen[np.argsort(-caps[chosen], kind="stable")]  # the largest device takes the largest network
    plan = []
    for place, client in enumerate(chosen):
        high = min(most, max(caps[client], least))
        low = min(floor, high)
        size = high if place == 0 else low if place == len(chosen) - 1 else rng.uniform(low, high)
        plan.append((int(client), _near(supernet, size, rng)))
    return plan


def _near(supernet: Supernet, size: float, rng: np.random.Generator) -> SubmodelConfig:
    """A submodel of about `size` (share of the full parameters) and not above it."""
    space = supernet.space
    smallest, largest = space.reach("parameters")
    if size * largest >= largest:
        return space.largest()
    if size * largest <= smallest * 1.01:
        return space.smallest()
    window = 0.02
    while True:  # ends: the widest window holds the smallest submodel
        budget = Budget(max_parameters=size * largest, min_parameters=max(0.0, size - window) * largest)
        if space.count(budget):
            return space.sample(budget, rng)
        window *= 2


def local_update(
    model: nn.Module, config: SubmodelConfig, data: Split, recipe: Recipe, learning_rate: float, seed: Sequence[int]
) -> Update:
    """Train a submodel on a client's own data; nothing but the result leaves the client.

    The model stays in eval mode: dropout would draw from the global generator and make runs unrepeatable.
    """
    generator = torch.Generator().manual_seed(int(np.random.default_rng([*seed, 3]).integers(2**62)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=recipe.weight_decay, fused=True)
    total, steps = 0.0, 0
    for _ in range(recipe.local_epochs):
        order = torch.randperm(len(data), generator=generator)
        for inputs, labels in data.batches(recipe.batch_size, order):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * min(1.0, (steps + 1) / max(1, recipe.local_warmup_steps))
            if recipe.horizontal_flip:
                flip = torch.rand(len(labels), generator=generator) < 0.5
                inputs = {k: torch.where(flip.view(-1, 1, 1, 1), v.flip(-1), v) for k, v in inputs.items()}
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.autocast):
                logits = model(**inputs).logits
            loss = nn.functional.cross_entropy(logits.float(), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
            optimizer.step()
            optimizer.zero_grad()
            total, steps = total + float(loss.detach()), steps + 1
    return Update(config, {n: p.detach() for n, p in model.named_parameters()}, len(data), total / max(steps, 1))


def aggregate(
    state: State, parameters: Iterable[Parameter], heads: int | None, updates: Sequence[Update]
) -> tuple[State, dict[str, torch.Tensor]]:
    """Mean change of every entry over the clients that covered it, and how many did (FedAvg by coverage).

    An entry that no client covered has change 0.
    """
    change, coverage = {}, {}
    for p in parameters:
        total, count = torch.zeros_like(state[p.name]), torch.zeros_like(state[p.name])
        for update in updates:
            widths = update.config.widths(p.layer)
            part = p.region(total, widths, heads)
            part += update.state[p.name].view(part.shape) - p.region(state[p.name], widths, heads)
            p.region(count, widths, heads).add_(1)
        change[p.name], coverage[p.name] = total / count.clamp(min=1), count
    return change, coverage
