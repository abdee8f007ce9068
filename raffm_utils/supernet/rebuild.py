"""Builds a submodel: the same modules around other parameters, and `Nothing` in place of those that have none."""

from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import nn


class Nothing(nn.Module):
    """Stands for the modules of a block that is left out: gives 0, so that the residual goes straight on.

    `pair` is set where attention would stand, which returns its weights too: here None.
    """

    def __init__(self, like: torch.Tensor) -> None:
        super().__init__()
        # made once: what is left out takes no memory when the network runs
        self.register_buffer("zero", torch.zeros((), dtype=like.dtype, device=like.device), persistent=False)
        self.pair = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return (self.zero, None) if self.pair else self.zero


def rebuild(
    module: nn.Module, tensors: Mapping[int, nn.Parameter], gone: Set[nn.Module], old: Any, new: Any, own: bool
) -> nn.Module:
    """Copy a module tree around other parameters, without initialisation, copied weights or hooks.

    `tensors` has the new parameter for the id of each old one that is left; `gone` are the modules of which none is.
    The configuration `old` is replaced by `new`. With `own`, buffers are copied too.
    """
    twin = object.__new__(type(module))
    nn.Module.__init__(twin)
    # written past `Module.__setattr__`, whose checks would take a third of the time
    state = twin.__dict__
    state.update({key: value for key, value in module.__dict__.items() if key not in state})
    state["training"] = False
    state["_parameters"] = {k: None if p is None else tensors[id(p)] for k, p in module._parameters.items()}
    state["_buffers"] = {k: b.clone() if own and b is not None else b for k, b in module._buffers.items()}
    state["_non_persistent_buffers_set"] = set(module._non_persistent_buffers_set)
    children: dict[str, nn.Module | None] = {}
    for key, child in module._modules.items():
        if child is None:
            children[key] = None
        elif child not in gone or isinstance(child, nn.ModuleList):
            children[key] = rebuild(child, tensors, gone, old, new, own)
        elif not isinstance(module, nn.ModuleList):
            children[key] = Nothing(next(child.parameters()))
    if len(children) < len(module._modules):
        children = {str(number): child for number, child in enumerate(children.values())}
        for number, child in enumerate(children.values()):
            _renumber(child, number)
    state["_modules"] = children
    if state.get("config") is old:
        state["config"] = new
    weight = state["_parameters"].get("weight")
    if isinstance(module, nn.Linear):
        state["out_features"], state["in_features"] = weight.shape
    elif isinstance(module, nn.LayerNorm):
        state["normalized_shape"] = tuple(weight.shape)
    elif isinstance(module, nn.Embedding):
        state["embedding_dim"] = weight.shape[1]
    elif isinstance(module, nn.Conv2d):
        state["out_channels"] = weight.shape[0]
    return twin


def _renumber(layer: nn.Module | None, number: int) -> None:
    """Tell the modules of a layer its new place, where they know it."""
    for module in layer.modules() if layer is not None else ():
        if hasattr(module, "layer_idx"):
            module.layer_idx = number  # type: ignore[assignment]
