"""Salient parameter prioritization: which indices of an axis are worth keeping longest."""

import torch

from .families import Axis, Parameter, Use
from .supernet import Group, Supernet, group


def magnitude_scores(supernet: Supernet) -> dict[Group, torch.Tensor]:
    """A score for every index of every elastic axis, from the weights alone; for `Supernet.reorder`.

    FFN neuron: norm of its row in the first matrix times norm of its column in the second. Head-size
    dimension: the same product for Q and K, and for V and O. Hidden channel: summed norms of all that
    reads it, norm weights included.
    """
    scores: dict[Group, torch.Tensor] = {}
    for p, tensor in zip(supernet.parameters, supernet.model.parameters(), strict=True):
        for dim, axis in enumerate(p.axes):
            if axis is None or not _counts(p, dim):
                continue
            norms = tensor.detach().float().movedim(dim, 0).reshape(tensor.shape[dim], -1).norm(dim=1)
            key = group(p, axis)
            if key not in scores:
                scores[key] = norms
            else:
                scores[key] = scores[key] + norms if axis is Axis.HIDDEN else scores[key] * norms
    return scores


def _counts(p: Parameter, dim: int) -> bool:
    """Whether the norms of this parameter along this dimension belong to the score of its axis."""
    if p.axes[dim] is not Axis.HIDDEN:
        return p.use is not Use.NEVER
    reads = dim == 1 and p.use is not Use.NEVER and len(p.axes) == 2
    return reads or (p.axes == (Axis.HIDDEN,) and p.name.endswith("weight"))
