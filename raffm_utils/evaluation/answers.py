"""What a classifier answers, whatever state its user left it in."""

import copy
from collections.abc import Mapping
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import CheckpointError

AnyModel = TypeVar("AnyModel", bound=nn.Module)


def in_eval_mode(model: AnyModel) -> AnyModel:
    """The model itself if it is in eval mode; otherwise a twin that is, with the same tensors in memory.

    The model stays as it is, so that it can be trained, or evaluated by another thread, at the same time. Raises
    `CheckpointError` for a model that cannot be copied.
    """
    if not any(module.training for module in model.modules()):
        return model
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    try:
        twin = copy.deepcopy(model, shared)
    except (RuntimeError, TypeError, AttributeError, copy.Error) as error:  # a hook that holds a lock or a file
        raise _no_twin(model, str(error)) from error
    for own, old in zip(twin.modules(), model.modules(), strict=True):
        # methods bound to a module are copied with it; a closure would still run the old one
        if (forward := vars(own).get("forward")) is not None and forward is vars(old)["forward"]:
            raise _no_twin(model, f"the forward of {type(old).__name__} has been replaced by a closure")
    return twin.eval()


def _no_twin(model: nn.Module, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{type(model).__name__} is in training mode and cannot be copied to be used in eval mode ({reason}): call "
        "model.eval() first"
    )


def logits_in(output: Any) -> torch.Tensor:
    """The logits in what a model returned without labels: a field, or the first item where `return_dict` is false."""
    found: torch.Tensor = output[0] if isinstance(output, tuple | list) else output.logits
    return found


def logits_of(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The logits of one batch, whose tensors are moved to the device of the model."""
    return logits_in(model(**{name: tensor.to(model.device) for name, tensor in inputs.items()}))
