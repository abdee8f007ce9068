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


def labels_of(model: Any) -> list[str]:
    """The names that the configuration gives the outputs of the classifier, in order; their numbers may be text.

    Raises `CheckpointError` unless they are numbered from 0 without a gap.
    """
    given = model.config.id2label or {}
    try:
        names = {int(number): str(name) for number, name in dict(given).items()}
    except (TypeError, ValueError):
        names = {}
    if sorted(names) != list(range(len(given))):
        shown = ", ".join(map(str, list(given)[:5])) or "none"
        raise CheckpointError(
            f"id2label of the configuration numbers its labels {shown}: number them from 0, each once"
        )
    return [names[number] for number in sorted(names)]


def class_names(model: Any) -> list[str]:
    """The names of the classes of a model that gives every example exactly one of them.

    Raises `CheckpointError` for a head that gives a number, or several labels at once: the largest logit is no answer.
    """
    names, problem = labels_of(model), getattr(model.config, "problem_type", None)
    if len(names) < 2 or problem not in (None, "single_label_classification"):
        kind = repr(problem) if problem else f"{len(names)} output"
        raise CheckpointError(
            f"the head of this {type(model).__name__} is for {kind}, not for exactly one of several classes: use its "
            "logits yourself (model(...).logits), or take a checkpoint for single-label classification"
        )
    return names


def check_colours(model: Any) -> None:
    """Raise `CheckpointError` for an image model that does not take red, green and blue, as all pictures are read."""
    if (channels := getattr(model.config, "num_channels", 3)) != 3:
        raise CheckpointError(
            f"this {type(model).__name__} takes pictures of {channels} channels (num_channels in config.json), but "
            "they are read as red, green and blue: take a network of 3 channels, or call the model yourself"
        )
