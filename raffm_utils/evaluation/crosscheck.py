"""Measurements of a running model that the closed forms of `raffm_utils.space` are checked against."""

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from ..errors import ElasticSpaceError
from .answers import in_eval_mode, logits_in


class _LiveBytes(TorchDispatchMode):
    """Tracks the storage of every tensor that an operator returns, from creation to release."""

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if (key := storage._cdata) not in self._known:
                    self._known.add(key)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._end, key, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return made

    def _end(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def measure_peak_activation_bytes(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> int:
    """Peak bytes of live tensors during one forward pass in inference mode.

    Weights, buffers, inputs and the workspace inside single operators are excluded.
    """
    model = in_eval_mode(model)
    with torch.inference_mode():
        model(**inputs)  # what is made once and kept does not count
        with _LiveBytes([*model.parameters(), *model.buffers(), *inputs.values()]) as live:
            model(**inputs)
    return live.peak


class Positional(nn.Module):
    """A model with positional inputs that returns only logits, the form that tracers and graphs support."""

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)

    def forward(self, *values: torch.Tensor) -> Any:
        return logits_in(self.model(**dict(zip(self.names, values, strict=True))))


def count_macs_torch(model: nn.Module, inputs: Mapping[str, Any]) -> int:
    """MACs of one forward pass by PyTorch's own counter, which counts two FLOPs for each; needs eager attention."""
    from torch.utils.flop_counter import FlopCounterMode

    _check_eager(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs)
    return int(counter.get_total_flops()) // 2


def _check_eager(model: nn.Module) -> None:
    attention = getattr(getattr(model, "config", None), "_attn_implementation", "eager")
    if attention != "eager":
        raise ElasticSpaceError(f"attention is {attention!r}, which no tracer counts on a CPU: use 'eager'")


def count_macs_fvcore(model: nn.Module, inputs: dict[str, Any]) -> int:
    """MACs of one forward pass as counted by fvcore, without layer norms, to check the closed form.

    The model must use eager attention: fvcore does not see the fused kernels.
    """
    from fvcore.nn import FlopCountAnalysis

    _check_eager(model)
    analysis = FlopCountAnalysis(Positional(model, inputs), tuple(inputs.values()))
    # not None: the handle that fvcore has of its own would win over that
    analysis.set_op_handle("aten::layer_norm", lambda inputs, outputs: 0)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return int(analysis.total())
