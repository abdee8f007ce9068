"""The client: trains a submodel on its own data; only the result leaves it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ..data import Split
from ..space import SubmodelConfig
from .recipe import WEIGHTINGS, Recipe
from .server import Update


def client_weight(data: Split, recipe: Recipe) -> float:
    """How much a client with these examples counts in the average."""
    return WEIGHTINGS[recipe.weighting](_label_counts(data))


def _label_counts(data: Split) -> torch.Tensor:
    return torch.bincount(data.labels, minlength=len(data.label_names)).float()


def local_update(
    model: PreTrainedModel,
    config: SubmodelConfig,
    data: Split,
    recipe: Recipe,
    learning_rate: float,
    seed: Sequence[int],
    patches: int | None = None,
) -> Update:
    """Train the trainable weights of a submodel on a client's own data; only the result leaves the client.

    With `patches`, the model sees that many random patches of each image, drawn again every time. It stays in eval
    mode: dropout would draw from the global generator, and runs could not be repeated.
    """
    generator = torch.Generator().manual_seed(int(np.random.default_rng([*seed, 3]).integers(2**62)))
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
                with torch.autocast("cpu", torch.bfloat16, enabled=recipe.autocast):
                    logits = model(**inputs).logits
                # not torch's "mean", which divides by the weights of the batch: a rare label alone would count as one
                loss = nn.functional.cross_entropy(logits.float(), labels, balance, reduction="sum") / len(labels)
                loss.backward()
                nn.utils.clip_grad_norm_(trained.values(), recipe.gradient_clip)
                optimizer.step()
                optimizer.zero_grad()
                total, steps = total + float(loss.detach()), steps + 1
    state = {n: p.detach() for n, p in model.named_parameters()}
    return Update(config, state, len(data), total / max(steps, 1), client_weight(data, recipe))


def rate_share(model: nn.Module, name: str, full_rate_rms: float | None) -> float:
    """The factor on the learning rate of a parameter; a bias has that of its module's weight."""
    if full_rate_rms is None:
        return 1.0
    weight = getattr(model.get_submodule(name.rpartition(".")[0]), "weight", model.get_parameter(name))
    return min(1.0, float(weight.detach().square().mean().sqrt()) / full_rate_rms)


@contextmanager
def fewer_patches(model: PreTrainedModel, patches: int | None, generator: torch.Generator) -> Iterator[None]:
    """Temporarily show an image model only the class token and `patches` random patches per image; None: all."""

    def drop(module: nn.Module, args: object, tokens: torch.Tensor) -> torch.Tensor:
        images = len(tokens)
        order = torch.rand(images, tokens.shape[1] - 1, generator=generator).argsort(1)[:, :patches]
        kept = torch.cat([torch.zeros(images, 1, dtype=torch.int64), order + 1], 1)
        return tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))

    if patches is None:
        yield
        return
    handle = cast(nn.Module, model.base_model.embeddings).register_forward_hook(drop)
    try:
        yield
    finally:
        handle.remove()
