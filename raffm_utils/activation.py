"""Peak activation memory: in closed form, from the moments in the axis table, and measured."""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from .axes import Live
from .budget import Choices


class PeakActivation:
    """Bytes of activations alive at once, in closed form."""

    def __init__(self, live: tuple[Live, ...], bytes_per_value: int) -> None:
        self.live = live
        self.bytes_per_value = bytes_per_value

    def bytes(self, hidden: int, attention: Sequence[int], ffn: Sequence[int], tokens: int) -> int:
        """The peak of one example of `tokens` tokens: the largest moment of all layers."""
        values = max(
            (moment.hidden + (layer > 0)) * hidden + moment.attention * a + moment.ffn * f
            for layer, (a, f) in enumerate(zip(attention, ffn, strict=True))
            for moment in self.live
        )
        return tokens * values * self.bytes_per_value

    def within(
        self, hidden: int, attention: Choices, ffn: Choices, tokens: int, limit: int
    ) -> tuple[Choices, Choices] | None:
        """The choices of every layer that keep the peak within `limit` bytes; None where a layer has none.

        A moment holds attention or FFN values, never both: the two are limited apart.
        """
        values = limit // (tokens * self.bytes_per_value)
        kept = [
            self._kept(values - (layer > 0) * hidden, hidden, attention[layer], ffn[layer]) for layer in range(len(ffn))
        ]
        if not all(a and f for a, f in kept):
            return None
        return tuple(a for a, _ in kept), tuple(f for _, f in kept)

    def _kept(
        self, values: int, hidden: int, attention: tuple[int, ...], ffn: tuple[int, ...]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        left = [(moment, values - moment.hidden * hidden) for moment in self.live]
        return (
            tuple(a for a in attention if all(moment.attention * a <= rest for moment, rest in left)),
            tuple(f for f in ffn if all(moment.ffn * f <= rest for moment, rest in left)),
        )


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
