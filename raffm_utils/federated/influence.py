"""Block influence: how much the answers change without a residual block, which says what may be left out."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch

from ..data import Split
from ..errors import ElasticSpaceError
from ..evaluation import logits_of
from ..space import Axis, Choices, SubmodelConfig
from ..supernet import Supernet

Block = tuple[Axis, int]  # attention or FFN, in which layer
BATCH = 100


@torch.no_grad()
def block_influence(supernet: Supernet, data: Split) -> dict[Block, float]:
    """How much the answers change when one block is left out: mean Kullback-Leibler divergence from the full network's.

    In nats, 0 for a block that changes no answer. A few hundred examples are enough to rank blocks. Measured on answers
    rather than on the residual stream (1 - cosine similarity before and after, ShortGPT, Men et al. 2024), which counts
    tokens that no answer depends on.

    Example:
        influence = block_influence(supernet, validation.subset(range(400)))
        ffn = with_zero((1536, 1024, 640), supernet.layers, least_influential(influence, Axis.FFN, 8))
    """
    batches = [inputs for inputs, _ in data.batches(BATCH)]

    def answers(config: SubmodelConfig) -> torch.Tensor:
        model = supernet.extract(config)
        return torch.cat([logits_of(model, inputs).float() for inputs in batches]).log_softmax(1)

    def without(widths: tuple[int, ...], layer: int) -> tuple[int, ...]:
        return (*widths[:layer], 0, *widths[layer + 1 :])

    full = supernet.full
    expected = answers(full)
    found = {}
    for layer in range(supernet.layers):
        found[Axis.ATTENTION, layer] = replace(full, attention=without(full.attention, layer))
        found[Axis.FFN, layer] = replace(full, ffn=without(full.ffn, layer))
    return {
        block: float((expected.exp() * (expected - answers(config))).sum(1).mean()) for block, config in found.items()
    }


def least_influential(influence: Mapping[Block, float], axis: Axis, number: int) -> tuple[int, ...]:
    """The `number` layers whose attention (or FFN) block has the least influence, in ascending order of layers.

    Raises `ElasticSpaceError` if there are not as many.
    """
    layers = [layer for own, layer in influence if own is axis]
    if not 0 <= number <= len(layers):
        raise ElasticSpaceError(f"number={number}: give 0 to {len(layers)}, the layers there are")
    return tuple(sorted(sorted(layers, key=lambda layer: influence[axis, layer])[:number]))


def with_zero(widths: Iterable[int], layers: int, optional: Iterable[int]) -> Choices:
    """Choices of width for every layer: `widths`, and in the `optional` layers also 0, which leaves the block out."""
    widths, optional = tuple(widths), set(optional)
    return tuple((*widths, 0) if layer in optional else widths for layer in range(layers))
