"""The client: trains a submodel on its own data; only the result leaves it."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ..data import Split
from ..evaluation import logits_of
from ..space import SubmodelConfig
from ..supernet import Supernet
from .images import fewer_patches, flipped, shifted
from .recipe import WEIGHTINGS, Recipe
from .server import Moments, State, Update
from .students import Students

LATE = 1e6  # steps after which Adam's correction of moments that started at 0 is over


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
    moments: Moments | None = None  # of Adam, by the same names, to go on from; None: it starts afresh
    steps: int | None = None  # batches in a local epoch at most; None: as many as the recipe says
    patches: int | None = None  # how many random patches of each image it sees, drawn again every time; None: all


def local_update(own: Supernet, task: Task, data: Split, recipe: Recipe) -> Update:
    """Train a client's `own` network, in place, on its own data; only the result leaves the client."""
    draws = np.random.default_rng([*task.seed, 3])
    generator = torch.Generator().manual_seed(int(draws.integers(2**62)))
    students = None
    if recipe.students:
        students = Students(own, recipe.students, recipe.soft_share, draws, recipe.student_weight)
    named = dict(zip(task.names, own.model.parameters(), strict=True))
    adam = make_adam(own.model, recipe, task.learning_rate)
    if task.moments is not None:
        _go_on(adam, named, task.moments)
    loss = fit(
        own.model,
        data,
        recipe,
        adam,
        generator,
        steps=task.steps,
        patches=task.patches,
        students=students,
        warm=task.moments is not None,
    )
    moments = _moments(adam, named, task.moments) if recipe.carry_moments else None
    state = {name: p.detach() for name, p in named.items()}
    return Update(task.config, state, len(data), loss, client_weight(data, recipe), moments)


def make_adam(model: nn.Module, recipe: Recipe, learning_rate: float) -> torch.optim.AdamW:
    """The optimizer of what is trainable of a model, each parameter at a rate of its own (see `rate_share`)."""
    groups = [
        {"params": [p], "rate": learning_rate * rate_share(model, name, recipe.full_rate_rms)}
        for name, p in model.named_parameters()
        if p.requires_grad
    ]
    betas = (0.9, recipe.second_moment)
    return torch.optim.AdamW(groups, learning_rate, betas, weight_decay=recipe.weight_decay, fused=True)


def _go_on(adam: torch.optim.AdamW, named: Mapping[str, nn.Parameter], moments: Moments) -> None:
    """Start an optimizer from known moments: late enough that it no longer scales them up, as at its beginning."""
    for name, parameter in named.items():
        if parameter.requires_grad:
            first, second = (kind[name] for kind in moments)
            adam.state[parameter] = {"step": torch.tensor(LATE), "exp_avg": first, "exp_avg_sq": second}


def _moments(adam: torch.optim.AdamW, named: Mapping[str, nn.Parameter], sent: Moments | None) -> Moments:
    """An optimizer's moments; of what is frozen, those that were sent, or 0."""

    def kind(key: str, before: State) -> State:
        return {name: adam.state[p][key] if p in adam.state else before[name] for name, p in named.items()}

    nothing = {name: torch.zeros_like(p.data) for name, p in named.items() if not p.requires_grad}
    first, second = sent or (nothing, nothing)
    return kind("exp_avg", first), kind("exp_avg_sq", second)


def fit(
    model: nn.Module,
    data: Split,
    recipe: Recipe,
    adam: torch.optim.AdamW,
    generator: torch.Generator,
    *,
    steps: int | None = None,
    patches: int | None = None,
    students: Students | None = None,
    warm: bool = False,
) -> float:
    """Train what is trainable of a model, in place, as the recipe says; returns the mean loss.

    It takes at most `steps` batches in a local epoch, by default as many as the recipe says. With `patches`, it sees
    that many random patches of each image, drawn again every time; `students` learn from its answers to every batch.
    Rates rise over the first steps unless `adam` is `warm`. The mode stays as it is, eval for clients: dropout would
    draw from the global generator, and runs could not be repeated.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    steps = recipe.local_steps if steps is None else steps
    warmup = 1 if warm else max(1, recipe.local_warmup_steps)
    counts = _label_counts(data)
    balance = len(data) / counts.count_nonzero() / counts.clamp(min=1) if recipe.balance_labels else None
    total, done = 0.0, 0
    with fewer_patches(model, patches, generator):
        for _ in range(recipe.local_epochs):
            order = torch.randperm(len(data), generator=generator)
            if steps is not None:
                while recipe.more_steps > 1 and len(order) < steps * recipe.batch_size:
                    order = torch.cat([order, torch.randperm(len(data), generator=generator)])
                order = order[: steps * recipe.batch_size]
            order = data.grouped(order, recipe.batch_size)
            for inputs, labels in data.batches(recipe.batch_size, order):
                for group in adam.param_groups:
                    group["lr"] = group["rate"] * min(1.0, (done + 1) / warmup)
                if recipe.horizontal_flip:
                    inputs = {k: flipped(v, generator) for k, v in inputs.items()}
                if recipe.random_shift:
                    inputs = {k: shifted(v, recipe.random_shift, generator) for k, v in inputs.items()}
                before = generator.get_state()
                with torch.autocast("cpu", torch.bfloat16, enabled=recipe.autocast):
                    logits = logits_of(model, inputs)
                # not torch's "mean", which divides by the weights of the batch: a rare label alone would count as one
                loss = nn.functional.cross_entropy(logits.float(), labels, balance, reduction="sum") / len(labels)
                loss.backward()
                if students is not None:
                    replay = torch.Generator().set_state(before)  # so that they see the same patches
                    students.learn(inputs, labels, logits.detach().float(), balance, recipe.autocast, patches, replay)
                nn.utils.clip_grad_norm_(trained, recipe.gradient_clip)
                adam.step()
                adam.zero_grad()
                total, done = total + float(loss.detach()), done + 1
    return total / max(done, 1)


def rate_share(model: nn.Module, name: str, full_rate_rms: float | None) -> float:
    """The factor on the learning rate of a parameter; a bias has that of its module's weight."""
    if full_rate_rms is None:
        return 1.0
    weight = getattr(model.get_submodule(name.rpartition(".")[0]), "weight", model.get_parameter(name))
    return min(1.0, float(weight.detach().square().mean().sqrt()) / full_rate_rms)
