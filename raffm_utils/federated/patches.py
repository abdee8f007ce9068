"""Images of which a client sees some patches only."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn


@contextmanager
def fewer_patches(model: nn.Module, patches: int | None, generator: torch.Generator) -> Iterator[None]:
    """Temporarily show an image model only the class token and `patches` random patches per image; None: all."""

    def drop(module: nn.Module, args: object, tokens: torch.Tensor) -> torch.Tensor:
        images = len(tokens)
        order = torch.rand(images, tokens.shape[1] - 1, generator=generator).argsort(1)[:, :patches]
        kept = torch.cat([torch.zeros(images, 1, dtype=torch.int64), order + 1], 1)
        return tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))

    if patches is None:
        yield
        return
    handle = cast(Any, model).base_model.embeddings.register_forward_hook(drop)
    try:
        yield
    finally:
        handle.remove()
