"""The client: trains a submodel on its own data; only the result leaves it."""

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ..data import Split
from ..space import SubmodelConfig
from ..supernet import Supernet
from .patches import fewer_patches
from .recipe import WEIGHTINGS, Recipe
from .server import Update
from .students import Students


def client_weight(data: Split, recipe: Recipe) -> float:
    """How much a client with these examples counts in the average."""
    return WEIGHTINGS[recipe.weighting](_label_counts(data))


def _label_counts(data: Split) -> torch.Tensor:
    return torch.bincount(data.labels, minlength=len(data.label_names)).float()


class Task(NamedTuple):
    """What a client is asked to do in a round; the weights of its submodel are sent with it."""

    config: SubmodelConfig
    names: tuple[str, ...]  # of the submodel's parameters in the supernet, in the order in which the submodel has them
    learning_rate: float
    seed: tuple[int, ...]
    patches: int | None = None  # how many random patches of each image it sees, drawn again every time; None: all


def local_update(own: Supernet, task: Task, data: Split, recipe: Recipe) -> Update:
    """Train a client's `own` network, in place, on its own data; only the result leaves the client."""
    draws = np.random.default_rng([*task.seed, 3])
    generator = torch.Generator().manual_seed(int(draws.integers(2**62)))
    students = Students(own, recipe.students, recipe.soft_share, draws) if recipe.students else None
    loss = fit(own.model, data, recipe, task.learning_rate, generator, patches=task.patches, students=students)
    state = {name: p.detach() for name, p in zip(task.names, own.model.parameters(), strict=True)}
    return Update(task.config, state, len(data), loss, client_weight(data, recipe))


def fit(
    model: nn.Module,
    data: Split,
    recipe: Recipe,
    learning_rate: float,
    generator: torch.Generator,
    *,
    patches: int | None = None,
    students: Students | None = None,
) -> float:
    """Train what is trainable of a model, in place, as the recipe says; returns the mean loss.

    With `patches`, it sees that many random patches of each image, drawn again every time; `students` learn from its
    answers to every batch. The mode stays as it is, eval for clients: dropout would draw from the global generator,
    and runs could not be repeated.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = [{"params": [p], "share": rate_share(model, name, recipe.full_rate_rms)} for name, p in trained.items()]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, weight_decay=recipe.weight_decay, fused=True)
    counts = _label_counts(data)
    balance = len(data) / counts.count_nonzero() / counts.clamp(min=1) if recipe.balance_labels else None
    total, steps = 0.0, 0
    with fewer_patches(model, patches, generator):
        for _ in range(recipe.local_epochs):
            order = torch.randperm(len(data), generator=generator)
            if recipe.local_steps is not None:
                order = order[: recipe.local_steps * recipe.batch_size]
            order = data.grouped(order, recipe.batch_size)
            for inputs, labels in data.batches(recipe.batch_size, order):
                for group in optimizer.param_groups:
                    group["lr"] = (
                        group["share"] * learning_rate * min(1.0, (steps + 1) / max(1, recipe.local_warmup_steps))
                    )
                if recipe.horizontal_flip:
                    flip = torch.rand(len(labels), generator=generator) < 0.5
                    inputs = {k: torch.where(flip.view(-1, 1, 1, 1), v.flip(-1), v) for k, v in inputs.items()}
                before = generator.get_state()
                with torch.autocast("cpu", torch.bfloat16, enabled=recipe.autocast):
                    logits = model(**inputs).logits
                # not torch's "mean", which divides by the weights of the batch: a rare label alone would count as one
                loss = nn.functional.cross_entropy(logits.float(), labels, balance, reduction="sum") / len(labels)
                loss.backward()
                if students is not None:
                    replay = torch.Generator().set_state(before)  # so that they see the same patches
                    students.learn(inputs, labels, logits.detach().float(), balance, recipe.autocast, patches, replay)
                nn.utils.clip_grad_norm_(trained.values(), recipe.gradient_clip)
                optimizer.step()
                optimizer.zero_grad()
                total, steps = total + float(loss.detach()), steps + 1
    return total / max(steps, 1)


def rate_share(model: nn.Module, name: str, full_rate_rms: float | None) -> float:
    """The factor on the learning rate of a parameter; a bias has that of its module's weight."""
    if full_rate_rms is None:
        return 1.0
    weight = getattr(model.get_submodule(name.rpartition(".")[0]), "weight", model.get_parameter(name))
    return min(1.0, float(weight.detach().square().mean().sqrt()) / full_rate_rms)
