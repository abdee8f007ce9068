"""Salient parameter prioritization: which indices of an axis to keep longest."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import pairwise

import torch
from torch import nn
from transformers.activations import ACT2FN

from ..data import Split
from ..errors import CheckpointError
from ..space import Axis, Parameter, Use
from ..supernet import Group, Supernet, group


def magnitude_scores(supernet: Supernet) -> dict[Group, torch.Tensor]:
    """A score for every index of every elastic axis, from the weights alone; for `Supernet.reorder`.

    FFN neuron: norm of its row in the first matrix times norm of its column in the second. Head-size
    dimension: the same product for Q and K, and for V and O. Hidden channel: summed norms of all
    parameters that read it, norm weights included.
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
    """Whether this parameter counts towards the score of the axis along this dimension."""
    if p.axes[dim] is not Axis.HIDDEN:
        return p.use is not Use.NEVER
    reads = dim == 1 and p.use is not Use.NEVER and len(p.axes) == 2
    return reads or (p.axes == (Axis.HIDDEN,) and p.name.endswith("weight"))


Moments = dict[str, torch.Tensor]
Watch = Callable[[torch.Tensor, torch.Tensor], None]  # gets what a module takes in and what it puts out


@torch.no_grad()
def concentrate(supernet: Supernet, data: Split) -> None:
    """Rotate and sort all elastic axes in place, by second moments measured on `data` (a few hundred examples).

    Needs layers with biases; raises `CheckpointError`, and changes nothing, if these are missing.
    """
    _check(supernet)
    norms_first = bool(supernet.family.norm_readers)
    if norms_first:
        _fold_norms(supernet)
    moments = _moments(supernet, data)
    _sort_ffn(supernet, moments)
    if norms_first:
        _rotate_hidden(supernet, reduce(torch.add, (moments[norm] for norm in _norms(supernet))))
    else:
        _sort_hidden(supernet, moments)
    moments = _moments(supernet, data)
    for layer in range(supernet.layers):
        _rotate_heads(supernet, layer, moments)


def _check(supernet: Supernet) -> None:
    folded = [name for _, readers in _norm_readers(supernet) for name in readers]
    heads = [name for layer in range(supernet.layers) for name in _head_linears(supernet, layer)]
    for name in [*folded, *heads]:
        if _linear(supernet, name).bias is None:
            raise CheckpointError(
                f"{name} has no bias to take up the offset of the norm before it; "
                "order it by magnitude_scores (raffm_utils.federated) and reorder instead"
            )


def _linear(supernet: Supernet, name: str) -> nn.Linear:
    module = supernet.model.get_submodule(name)
    assert isinstance(module, nn.Linear), f"{name} is a {type(module).__name__}"
    return module


def _norms(supernet: Supernet) -> list[str]:
    return [norm for norm, _ in _norm_readers(supernet)]


def _norm_readers(supernet: Supernet) -> Iterator[tuple[str, list[str]]]:
    for norm, readers in supernet.family.norm_readers:
        for layer in range(supernet.layers) if "{layer}" in norm else (0,):
            yield norm.format(layer=layer), [reader.format(layer=layer) for reader in readers]


def _fold_norms(supernet: Supernet) -> None:
    """Move gain and offset of every norm into its readers, and take the mean, which norms remove, from writers."""
    for name, readers in _norm_readers(supernet):
        norm = supernet.model.get_submodule(name)
        assert isinstance(norm, nn.LayerNorm), f"{name} is a {type(norm).__name__}"
        for reader in (_linear(supernet, reader) for reader in readers):
            reader.bias.add_(reader.weight @ norm.bias)
            reader.weight *= norm.weight
        nn.init.ones_(norm.weight)
        nn.init.zeros_(norm.bias)
    for tensor, dim in _hidden(supernet, writers=True):
        tensor -= tensor.mean(dim, keepdim=True)


def _hidden(supernet: Supernet, *, writers: bool) -> Iterator[tuple[torch.Tensor, int]]:
    """Parameters that write to (or read from) the residual stream, with the dimension that lies on it."""
    norms = set(_norms(supernet))
    for p, tensor in zip(supernet.parameters, supernet.model.parameters(), strict=True):
        if Axis.HIDDEN in p.axes and p.name.rpartition(".")[0] not in norms:
            dim = p.axes.index(Axis.HIDDEN)
            reads = dim == 1 and p.use is not Use.NEVER
            if reads is not writers:
                yield tensor.data, dim


def _moments(supernet: Supernet, data: Split) -> Moments:
    """Mean outer product of what every norm puts out and every layer's heads take in, and mean square of what
    every FFN's last matrix takes in."""
    found: Moments = {}

    def add(name: str, value: torch.Tensor) -> None:
        found[name] = found.get(name, torch.zeros(())) + value / len(data)

    with hooks(supernet) as watch:
        for name in _norms(supernet):
            watch(name, lambda x, y, name=name: add(name, _outer(y)))  # type: ignore[misc]
        for name in {_heads_input(supernet, layer) for layer in range(supernet.layers)} - {*_norms(supernet)}:
            watch(name, lambda x, y, name=name: add(name, _outer(x)))  # type: ignore[misc]
        for p in supernet.parameters:
            if p.use is not Use.NEVER and p.axes[-1] is Axis.FFN:
                module = p.name.rpartition(".")[0]
                watch(module, lambda x, y, name=module: add(name, x.flatten(0, -2).square().sum(0)))  # type: ignore[misc]
        for inputs, _ in data.batches(100):
            supernet.model(**inputs)
    return found


def _head_linears(supernet: Supernet, layer: int) -> list[str]:
    """Names of Q, K, V and O of a layer, in the order of the table."""
    return [
        p.name.rpartition(".")[0]
        for p in supernet.parameters
        if p.layer == layer and p.role is not None and p.use is not Use.NEVER
    ]


def _heads_input(supernet: Supernet, layer: int) -> str:
    """The module whose moment is that of what the heads of a layer take in: the norm before them, or Q itself."""
    query = _head_linears(supernet, layer)[0]
    return next((norm for norm, readers in _norm_readers(supernet) if query in readers), query)


def _outer(values: torch.Tensor) -> torch.Tensor:
    rows = values.flatten(0, -2)
    return rows.T @ rows


@contextmanager
def hooks(supernet: Supernet) -> Iterator[Callable[[str, Watch], None]]:
    """Temporarily call functions with the inputs and outputs of named modules."""
    handles = []

    def watch(module: str, function: Watch) -> None:
        handles.append(supernet.model.get_submodule(module).register_forward_hook(lambda m, x, y: function(x[0], y)))

    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def _sort_ffn(supernet: Supernet, moments: Moments) -> None:
    scores: dict[Group, torch.Tensor] = {}
    for p, tensor in zip(supernet.parameters, supernet.model.parameters(), strict=True):
        if p.use is not Use.NEVER and p.axes[-1] is Axis.FFN:
            activity = moments[p.name.rpartition(".")[0]].sqrt()
            scores[Axis.FFN, p.layer, None] = activity * tensor.data.norm(dim=0)
    supernet.reorder(scores)


def _sort_hidden(supernet: Supernet, moments: Moments) -> None:
    activity = reduce(torch.add, (m.diagonal() for m in moments.values() if m.ndim == 2)).sqrt()
    magnitude = magnitude_scores(supernet)[Axis.HIDDEN, None, None]
    supernet.reorder({(Axis.HIDDEN, None, None): activity * magnitude})


def _rotate_hidden(supernet: Supernet, moment: torch.Tensor) -> None:
    """Rotate the residual stream to its principal axes, leaving the direction of its mean where it is.

    Layer norm removes the mean over channels, so only rotations that fix the all-ones vector commute with
    it. The axes are laid along the zero-mean directions nearest to the first coordinates.
    """
    n = supernet.hidden
    centre = torch.eye(n, dtype=torch.float64) - 1 / n
    principal = torch.linalg.eigh(centre @ moment.double() @ centre)[1].flip(1)[:, : n - 1]
    values, vectors = torch.linalg.eigh(centre[: n - 1, : n - 1])
    nearest = centre[:, : n - 1] @ (vectors * values.rsqrt()) @ vectors.T
    rotation = (nearest @ principal.T + 1 / n).float()
    for writers in (True, False):
        for tensor, dim in _hidden(supernet, writers=writers):
            tensor.copy_(torch.tensordot(tensor, rotation, dims=([dim], [1])).movedim(-1, dim))


def _rotate_heads(supernet: Supernet, layer: int, moments: Moments) -> None:
    """Give Q K^T and O V of every head their singular directions, the strongest first, weighted by the inputs."""
    query, key, value, output = (_linear(supernet, name) for name in _head_linears(supernet, layer))
    moment = moments[_heads_input(supernet, layer)].double()
    moment = moment / moment.diagonal().mean()
    root, inverse = _roots(moment)
    heads, n = supernet.heads, supernet.hidden
    # a constant input carries the biases of Q and K through the same algebra
    extended_root, extended_inverse = (torch.block_diag(m, torch.ones(1, 1, dtype=m.dtype)) for m in (root, inverse))
    q, k = (torch.cat([m.weight, m.bias[:, None]], 1).double().unflatten(0, (heads, -1)) for m in (query, key))
    u, s, v = _low_rank_svd(q @ extended_root, k @ extended_root)
    q, k = ((s.sqrt()[..., None] * m) @ extended_inverse for m in (u, v))
    for module, joint in ((query, q), (key, k)):
        module.weight.copy_(joint.flatten(0, 1)[:, :n])
        module.bias.copy_(joint.flatten(0, 1)[:, n])
    # the bias of V passes through attention unchanged, since its weights sum to one
    output.bias.add_(output.weight @ value.bias)
    nn.init.zeros_(value.bias)
    o = output.weight.double().unflatten(1, (heads, -1)).permute(1, 2, 0)
    u, s, v = _low_rank_svd(o, value.weight.double().unflatten(0, (heads, -1)) @ root)
    value.weight.copy_(((s.sqrt()[..., None] * v) @ inverse).flatten(0, 1))
    output.weight.copy_((s.sqrt()[..., None] * u).flatten(0, 1).T)


def _roots(moment: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric square root of a second moment, and its inverse; directions without input count a little."""
    values, vectors = torch.linalg.eigh(moment)
    values = values.clamp(min=float(values.max()) * 1e-6)
    return (vectors * values.sqrt()) @ vectors.T, (vectors * values.rsqrt()) @ vectors.T


def _low_rank_svd(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Singular vectors (as rows) and values of `a^T b` per head, where a and b are (heads, head size, width)."""
    qa, ra = torch.linalg.qr(a.mT)
    qb, rb = torch.linalg.qr(b.mT)
    u, s, v = torch.linalg.svd(ra @ rb.mT)
    return (qa @ u).mT, s, (qb @ v.mT).mT


CONSTANT = 3.0  # what a helper puts into the activation function, whatever its input


@torch.no_grad()
def keep_ffn_means(supernet: Supernet, data: Split) -> None:
    """Sort FFN neurons by how much what they put out varies, and let every width keep its mean; in place.

    Removing a neuron also removes the mean of its output, which causes most of the damage (FLAP, An et al. 2023,
    compensates for it in the bias). One bias cannot serve all widths. So in every step between two choices of width,
    the neuron that varies least becomes a helper with a constant output, which cancels the mean of the other neurons
    of that step; the bias holds all of these means. The full network changes only by the variation of those few
    neurons. `data` are a few hundred examples.
    """
    layers = [_layer(supernet, layer) for layer in range(supernet.layers)]
    scores: dict[Group, torch.Tensor] = {}
    config = supernet.model.config
    constant = float(ACT2FN[getattr(config, "hidden_act", None) or config.activation](torch.tensor(CONSTANT)))
    moments = _ffn_moments(supernet, [name for _, name in layers], data)
    for layer, (names, (mean, variance), choices) in enumerate(zip(layers, moments, supernet.space.ffn, strict=True)):
        first, second = (supernet.model.get_submodule(name) for name in names)
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        steps = list(pairwise(sorted(choices)))
        order = (variance.sqrt() * second.weight.norm(dim=0)).argsort(descending=True)
        varying, helpers = order[: len(order) - len(steps)], order[len(order) - len(steps) :]
        second.bias.add_(second.weight[:, helpers] @ mean[helpers])
        first.weight[helpers] = 0.0
        first.bias[helpers] = CONSTANT
        layout, taken = [varying[: min(choices)]], min(choices)
        for helper, (low, high) in zip(helpers, steps, strict=True):
            part = varying[taken : taken + high - low - 1]
            shift = second.weight[:, part] @ mean[part]
            second.bias.add_(shift)
            second.weight[:, helper] = -shift / constant
            layout += [part, helper[None]]
            taken += len(part)
        scores[Axis.FFN, layer, None] = torch.cat(layout).argsort().neg().float()  # the first has the highest
    supernet.reorder(scores)


def _layer(supernet: Supernet, layer: int) -> tuple[str, str]:
    """Names of the two linear maps around the neurons of a layer."""
    inside = [p for p in supernet.parameters if p.layer == layer and p.use is not Use.NEVER and Axis.FFN in p.axes]
    first, second = (next(p.name for p in inside if len(p.axes) == 2 and p.axes[place] is Axis.FFN) for place in (0, 1))
    return first.rpartition(".")[0], second.rpartition(".")[0]


def _ffn_moments(supernet: Supernet, modules: Sequence[str], data: Split) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean and variance of the input of every module, over all tokens of all examples."""
    sums = {module: torch.zeros(3, 1, dtype=torch.float64) for module in modules}

    def add(module: str, values: torch.Tensor) -> None:
        rows = values.flatten(0, -2).double()
        sums[module] = sums[module] + torch.stack([torch.ones_like(rows).sum(0), rows.sum(0), rows.square().sum(0)])

    with hooks(supernet) as watch:
        for module in modules:
            watch(module, lambda x, y, module=module: add(module, x))  # type: ignore[misc]
        for inputs, _ in data.batches(100):
            supernet.model(**inputs)
    moments = [(total / count, square / count) for count, total, square in sums.values()]
    return [(mean.float(), (square - mean.square()).clamp(min=0).float()) for mean, square in moments]
