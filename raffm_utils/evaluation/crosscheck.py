"""Peak activation memory: in closed form, from the moments in the axis table, and measured."""

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from ..errors import ElasticSpaceError


class _LiveBytes(TorchDispatchMode):
    """Follows every tensor that an operator returns, from its making to its end, by its storage."""

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
    """Bytes of tensors alive at once, at most, during one forward pass in inference mode.

    Weights, buffers and inputs are left out, and so is what a single operator needs inside itself.
    """
    with torch.inference_mode():
        model(**inputs)  # what is made once and kept does not count
        with _LiveBytes([*model.parameters(), *model.buffers(), *inputs.values()]) as live:
            model(**inputs)
    return live.peak


def count_macs_fvcore(model: nn.Module, inputs: dict[str, Any]) -> int:
    """MACs of one forward pass by fvcore's tracer, layer norms left out, for checking the closed form.

    The model must use eager attention: fvcore does not see the fused kernels.
    """
    from fvcore.nn import FlopCountAnalysis

    attention = getattr(getattr(model, "config", None), "_attn_implementation", "eager")
    if attention != "eager":
        raise ElasticSpaceError(f"attention is {attention!r}, which fvcore cannot count: use 'eager'")

    class Positional(nn.Module):
        """The tracer passes inputs by position only."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *values: Any) -> Any:
            return self.model(**dict(zip(inputs, values, strict=True))).logits

    analysis = FlopCountAnalysis(Positional(), tuple(inputs.values()))
    # not None: the handle that fvcore has of its own would win over that
    analysis.set_op_handle("aten::layer_norm", lambda inputs, outputs: 0)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return int(analysis.total())
