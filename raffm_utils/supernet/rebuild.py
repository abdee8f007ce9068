"""Builds a submodel: the same modules around other parameters, and `Nothing` in place of those that have none."""

import copy
from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import CheckpointError
from ..space import Family

States = Mapping[type[nn.Module], Set[str]]
_FRESH = frozenset(vars(nn.Module()))  # what every module has: flags, hooks, parameters, children


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


def constructed_state(model: PreTrainedModel, family: Family) -> States:
    """The attributes that the constructor of each kind of module in `model` sets, besides those of every module.

    Whatever else a module has was put there later, and may be bound to it: what `compile` makes of it, a `forward` that
    runs it between hooks, the note that its hooks are installed. Raises `CheckpointError` for a network that cannot be
    built from its configuration alone.
    """
    config: Any = copy.deepcopy(model.config)
    _, heads, _, _ = family.widths(config)
    for key, value in ((family.hidden_key, heads), (family.ffn_key, 1), (family.layers_key, 1)):
        setattr(config, key, value)
    config.__dict__.pop(family.head_size_name, None)
    try:
        with torch.device("meta"):
            built = type(model)(config)
    except Exception as error:  # the library raises many kinds for settings that cannot be
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise CheckpointError(
            f"{type(model).__name__} cannot be built from its configuration ({reason}): give a plain transformers model"
        ) from error
    found: dict[type[nn.Module], Set[str]] = {}
    for module in built.modules():
        found[type(module)] = found.get(type(module), frozenset()) | (vars(module).keys() - _FRESH)
    return found


def _state(module: nn.Module, states: States) -> dict[str, Any]:
    """What a copy of the module takes over: containers are copied; of kinds unknown, all that hides no method."""
    known, kind = states.get(type(module)), type(module)
    return {
        key: copy.copy(value) if isinstance(value, dict | list | set) else value
        for key, value in vars(module).items()
        if key not in _FRESH and (not hasattr(kind, key) if known is None else key in known)
    }


def rebuild(
    module: nn.Module,
    tensors: Mapping[int, nn.Parameter],
    gone: Set[nn.Module],
    config: PreTrainedConfig,
    states: States,
    own: bool,
) -> nn.Module:
    """Copy a module tree around other parameters, without initialisation, copied weights or hooks.

    `tensors` has the new parameter for the id of each old one that is left; `gone` are the modules of which none is.
    All get the new `config`, and what `states` says that they are made of. With `own`, buffers are copied too.
    """
    twin = object.__new__(type(module))
    nn.Module.__init__(twin)
    # written past `Module.__setattr__`, whose checks would take a third of the time
    state = twin.__dict__
    state.update(_state(module, states))
    state["training"] = False
    state["_parameters"] = {k: None if p is None else tensors[id(p)] for k, p in module._parameters.items()}
    state["_buffers"] = {k: b.clone() if own and b is not None else b for k, b in module._buffers.items()}
    state["_non_persistent_buffers_set"] = set(module._non_persistent_buffers_set)
    children: dict[str, nn.Module | None] = {}
    for key, child in module._modules.items():
        if child is None:
            children[key] = None
        elif child not in gone or isinstance(child, nn.ModuleList):
            children[key] = rebuild(child, tensors, gone, config, states, own)
        elif not isinstance(module, nn.ModuleList):
            children[key] = Nothing(next(child.parameters()))
    if len(children) < len(module._modules):
        children = {str(number): child for number, child in enumerate(children.values())}
        for number, child in enumerate(children.values()):
            _renumber(child, number)
    state["_modules"] = children
    if isinstance(state.get("config"), PreTrainedConfig):
        state["config"] = config
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
