"""How a client sees an image: mirrored, moved, or some patches of it only."""

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


def flipped(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Images of shape (number, channels, height, width), each mirrored with probability 1/2."""
    flip = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flip.view(-1, 1, 1, 1), images.flip(-1), images)


def shifted(images: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
    """Images of shape (number, channels, height, width), each moved by up to `most` pixels down or up and sideways.

    What becomes free repeats the nearest row or column, so that the value of the background does not matter.
    """
    number, channels, height, width = images.shape
    down, right = torch.randint(-most, most + 1, (2, number, 1), generator=generator)
    rows = (torch.arange(height) - down).clamp(0, height - 1)
    columns = (torch.arange(width) - right).clamp(0, width - 1)
    each, channel = torch.arange(number).view(-1, 1, 1, 1), torch.arange(channels).view(1, -1, 1, 1)
    return images[each, channel, rows[:, None, :, None], columns[:, None, None, :]]
