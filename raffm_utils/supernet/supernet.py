"""The supernet: a full network whose weights hold every submodel."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import CheckpointError, ElasticSpaceError
from ..space import AffineLatency, Axis, Cost, CostModel, ElasticSpace, Family, Parameter, Role, SubmodelConfig
from . import checkpoints
from .processors import load_processor
from .rebuild import Nothing, constructed_state, rebuild
from .spec import PER_HEAD, ElasticSpec

Group = tuple[Axis, int | None, Role | None]


class Supernet:
    """A scalable checkpoint in memory.

    Attributes:
        model: the full network, in eval mode and frozen unless it is `narrowed`; all weights live here. It may be given
            other weights of the same names and shapes; for any other change, make a new supernet of it.
        full: the whole network as a configuration, whether or not the space includes it.
        space: its `ElasticSpace`, which knows the costs.
        family: its axis table; `parameters` is that table applied to this network.
        spec: what `elastic_space.json` said, provenance included.
    """

    def __init__(self, model: PreTrainedModel, family: Family, spec: ElasticSpec, folder: Path | None = None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.family = family
        self.spec = spec
        self.folder = folder
        self.parameters: tuple[Parameter, ...] = family.parameters(model)
        self._states = constructed_state(model, family)
        self._dtype = next(model.parameters()).dtype
        self.full = read_widths(self.parameters)
        self.layers, self.hidden = len(self.full.attention), self.full.hidden
        _, self.heads, _, _ = family.widths(model.config)
        costs = CostModel(
            self.parameters,
            patches=family.patches(model.config),
            positions=None if family.is_image else family.positions(model.config),
            bytes_per_parameter=self._dtype.itemsize,
            live=family.live,
        )
        self.space: ElasticSpace = spec.space(self.full, self.heads, costs)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        tokens: int | None = None,
        revision: str | None = None,
        attn_implementation: str | None = None,
    ) -> "Supernet":
        """Load a scalable checkpoint: a bundled name, a local folder, or a hub id.

        Weights are read as float32 from safetensors, or from a `.bin` that holds nothing executable. `tokens` is the
        sequence length that MACs and activations of a text model are counted at; image models ignore it. `revision` is
        a branch, tag or commit of a checkpoint on the hub. `attn_implementation` is `"sdpa"` (default), `"eager"`, or
        another that `transformers` knows. Raises `CheckpointError` or `ElasticSpaceError`, naming file, key, value and
        remedy.

        Example:
            >>> supernet = Supernet.from_pretrained("vit-small-fashion-mnist-large-budget")
            >>> supernet.layers, supernet.hidden
            (12, 384)
        """
        folder = checkpoints.resolve(name, revision)
        model, family = checkpoints.load_model(folder, attn_implementation)
        supernet = cls(model, family, checkpoints.load_spec(folder), folder)
        supernet.tokens = tokens
        return supernet

    @property
    def name(self) -> str:
        """The name of the checkpoint's folder or repository; the model type if it was not loaded from one."""
        return (self.folder and checkpoints.name_of(self.folder)) or self.family.model_type

    @cached_property
    def processor(self) -> Any:
        """The image processor or tokenizer stored with the checkpoint."""
        if self.folder is None:
            raise CheckpointError("this supernet was not loaded from a folder, so it has no processor")
        return load_processor(self.folder, self.family, self.model.config)

    def fingerprint(self) -> str:
        """A hash of the weights as they are in memory, of how they are sliced, and of the settings that count."""
        return checkpoints.fingerprint(self.model, self.spec)

    @property
    def slicing_heads(self) -> int | None:
        """The number of heads to slice within; None if the first rows are kept regardless of heads."""
        return self.heads if self.spec.head_slicing == PER_HEAD else None

    def cost(self, config: SubmodelConfig, tokens: int | None = None) -> Cost:
        """All costs of one example, in closed form; no model is built.

        Example:
            >>> supernet = Supernet.from_pretrained("vit-small-fashion-mnist-large-budget")
            >>> supernet.cost(supernet.space.smallest()).macs
            12040080

        `tokens` replaces `Supernet.tokens` for this call; image models ignore both.
        """
        self.check(config)
        self._tensors()
        return (self.costs if tokens is None else self.costs_at(tokens)).cost(config)

    @property
    def costs(self) -> CostModel:
        """The closed forms behind `cost` and `space`, under the conditions set here."""
        assert self.space.costs is not None
        return self.space.costs

    def costs_at(self, tokens: int) -> CostModel:
        """The closed forms at another token count; images keep their own."""
        return self.costs.under(replace(self.costs.conditions, tokens=tokens))

    @property
    def tokens(self) -> int | None:
        """The sequence length that costs of a text model are counted at. Images have their own: None.

        Setting it replaces `space` by one that counts at this length; the same goes for `latency`.
        """
        return self.costs.conditions.tokens

    @tokens.setter
    def tokens(self, tokens: int | None) -> None:
        self.space = self.space.under(tokens=tokens)

    @property
    def latency(self) -> AffineLatency | None:
        """The latency model behind `cost` and budgets; None until one is set (see `LatencyModel.fit`)."""
        return self.costs.conditions.latency

    @latency.setter
    def latency(self, model: AffineLatency | None) -> None:
        self.space = self.space.under(latency=model)

    def check(self, config: SubmodelConfig) -> None:
        """Raise `ElasticSpaceError` unless `config` can be cut from this network."""
        if len(config.attention) != self.layers:
            raise ElasticSpaceError(f"{len(config.attention)} layers asked, but the network has {self.layers}")
        full, heads = self.full, self.heads
        if not 0 < config.hidden <= full.hidden:
            raise ElasticSpaceError(f"hidden width {config.hidden}: give 1 to {full.hidden}")
        for axis, widths, most, step in (
            (Axis.ATTENTION, config.attention, full.attention, heads),
            (Axis.FFN, config.ffn, full.ffn, 1),
        ):
            for layer, (width, widest) in enumerate(zip(widths, most, strict=True), 1):
                if not 0 <= width <= widest or width % step:
                    allowed = f"a multiple of {step} up to {widest}" if widest else "0"
                    raise ElasticSpaceError(
                        f"{axis} width {width} of layer {layer}: give {allowed}, where 0 leaves the block out"
                        + (f" ({heads} heads share it)" if step > 1 else "")
                    )

    def extract(self, config: SubmodelConfig, *, copy: bool = False) -> PreTrainedModel:
        """Cut a submodel out of the supernet: an ordinary `PreTrainedModel` in eval mode.

        By default it is frozen and shares memory with the supernet wherever a slice can be a view, which takes
        milliseconds. With `copy=True` it has its own contiguous, trainable weights. What was done to the supernet's
        modules (compiled, hooks, a replaced `forward`) is not done to the submodel. `torch.save` of a shared state dict
        would write the full weights along: use `save_pretrained`, or `copy=True`.

        A block of width 0 is left out: its parameters are gone, `Nothing` stands in its place, and a layer of which
        nothing is left is not in the list of layers.

        Example:
            >>> supernet = Supernet.from_pretrained("vit-small-fashion-mnist-large-budget")
            >>> model = supernet.extract(supernet.space.smallest())
            >>> sum(p.numel() for p in model.parameters()) == supernet.cost(supernet.space.smallest()).parameters
            True
        """
        self.check(config)
        tensors: dict[int, nn.Parameter] = {}
        for p, full in zip(self.parameters, self._tensors(), strict=True):
            widths = config.widths(p.layer)
            if not p.present(widths):
                continue
            part = p.part(full.data, widths, self.slicing_heads)
            if part.ndim > len(p.shape):  # heads, and what is kept of each, come apart
                part = part.reshape(p.narrowed_shape(widths))
            if copy:
                part = part.clone(memory_format=torch.contiguous_format)
            tensors[id(full)] = nn.Parameter(part, requires_grad=copy)
        model = rebuild(self.model, tensors, self._left_out(config), self._narrowed_config(config), self._states, copy)
        for number, layer in enumerate(self._layers_left(config)):
            attention = model.get_submodule(self.family.attention_module.format(layer=number))
            self._set_head_size(attention, config.attention[layer])
        return model  # type: ignore[return-value]

    def narrowed(self, config: SubmodelConfig) -> "Supernet":
        """A submodel as a supernet of its own: trainable weights, and the space of what lies within it.

        Those of this network's parameters that the submodel has stand in the same order in both models.

        Example:
            >>> supernet = Supernet.from_pretrained("vit-small-fashion-mnist-large-budget")
            >>> half = supernet.narrowed(supernet.space.smallest())
            >>> half.full == half.space.largest() == supernet.space.smallest()
            True
        """
        spec = self.spec.within(self.space, config, self._layers_left(config) or [0])
        narrowed = Supernet(self.extract(config, copy=True), self.family, spec)
        narrowed.model.requires_grad_(True)
        narrowed.tokens, narrowed.latency = self.tokens, self.latency
        return narrowed

    def reorder(self, scores: Mapping[Group, torch.Tensor]) -> None:
        """Sort axes by descending score, in place, so that narrowing keeps what matters most.

        Keys are the `group`s of axes that must move together; values have one score per index of the full
        axis. All parameters are permuted consistently, so the full network computes the same function. Attention is
        sorted within each head (salient parameter prioritization, RaFFM section 3.1).
        """
        orders = {key: self._order(key, score) for key, score in scores.items()}
        for p, tensor in zip(self.parameters, self._tensors(), strict=True):
            for dim, axis in enumerate(p.axes):
                if axis is not None and (order := orders.get(group(p, axis))) is not None:
                    tensor.data.copy_(tensor.data.index_select(dim, order.to(tensor.device)))

    def _order(self, key: Group, score: torch.Tensor) -> torch.Tensor:
        full = self.full.widths(key[1] or 0)[key[0]]
        if tuple(score.shape) != (full,) or not bool(torch.isfinite(score).all()):
            raise ElasticSpaceError(f"scores of {key}: give {full} finite numbers, got shape {tuple(score.shape)}")
        if key[0] is not Axis.ATTENTION:
            return score.argsort(descending=True, stable=True)
        inside = score.view(self.heads, -1).argsort(dim=1, descending=True, stable=True)
        first = torch.arange(self.heads, device=inside.device)[:, None] * inside.shape[1]
        return (inside + first).flatten()

    def _tensors(self) -> list[nn.Parameter]:
        """The weights of `parameters`, looked up anew, since the network may have been given others.

        Raises `CheckpointError` where it is no longer the one that the costs and the space were made for.
        """
        found, tensors = dict(self.model.named_parameters()), []
        for p in self.parameters:
            tensor = found.pop(p.name, None)
            if tensor is None or tuple(tensor.shape) != p.shape or tensor.dtype != self._dtype:
                now = "gone" if tensor is None else f"{list(tensor.shape)} in {tensor.dtype}"
                raise _changed(f"{p.name}, {list(p.shape)} in {self._dtype}, is now {now}")
            tensors.append(tensor)
        if found:
            raise _changed(f"{next(iter(found))} is new")
        return tensors

    def _left_out(self, config: SubmodelConfig) -> set[nn.Module]:
        """The modules of the full network of which a submodel has no parameter."""
        left: set[nn.Module] = set()
        gone: set[nn.Module] = set()
        for p in self.parameters if 0 in (*config.attention, *config.ffn) else ():
            (left if p.present(config.widths(p.layer)) else gone).update(_owners(self.model, p.name))
        return gone - left

    def _narrowed_config(self, config: SubmodelConfig) -> Any:
        narrowed = copy.copy(self.model.config)
        narrowed.__dict__ = {
            key: copy.copy(value) if isinstance(value, dict | list) else value for key, value in vars(narrowed).items()
        }
        setattr(narrowed, self.family.hidden_key, config.hidden)
        setattr(narrowed, self.family.layers_key, len(self._layers_left(config)))
        attention, ffn = ({width for width in widths if width} for widths in (config.attention, config.ffn))
        if len(ffn) == 1:
            setattr(narrowed, self.family.ffn_key, ffn.pop())
        if len(attention) == 1 and self.family.head_size_name in vars(narrowed):
            setattr(narrowed, self.family.head_size_name, attention.pop() // self.heads)
        narrowed.submodel = {"hidden": config.hidden, "attention": list(config.attention), "ffn": list(config.ffn)}
        return narrowed

    def _layers_left(self, config: SubmodelConfig) -> list[int]:
        """The layers of which a submodel has any parameter."""
        return sorted({p.layer for p in self.parameters if p.layer is not None and p.present(config.widths(p.layer))})

    def _set_head_size(self, attention: Any, width: int) -> None:
        if isinstance(attention, Nothing):
            attention.pair = True
            return
        # transformers infers the number of heads from these two in forward
        setattr(attention, self.family.head_size_name, width // self.heads)
        attention.scaling = (width // self.heads) ** -0.5
        if hasattr(attention, "all_head_size"):
            attention.all_head_size = width


def _changed(what: str) -> CheckpointError:
    return CheckpointError(
        f"the network has been changed since the supernet was made: {what}: merge adapters into the weights, then make "
        "a new one: Supernet(supernet.model, supernet.family, supernet.spec, supernet.folder)"
    )


def read_widths(parameters: Sequence[Parameter]) -> SubmodelConfig:
    """The widths of a network, read off the shapes of its parameters; 0 where it has none of a block.

    A network without any block reads as one layer of none.
    """
    layers = 1 + max((p.layer for p in parameters if p.layer is not None), default=0)
    found = {axis: [0] * layers for axis in Axis}
    for p in parameters:
        for axis, width in zip(p.axes, p.shape, strict=True):
            if axis is not None:
                found[axis][p.layer or 0] = width
    return SubmodelConfig(found[Axis.HIDDEN][0], tuple(found[Axis.ATTENTION]), tuple(found[Axis.FFN]))


def _owners(model: nn.Module, name: str) -> tuple[nn.Module, ...]:
    """The modules that a parameter lies in, but the model itself."""
    path = name.split(".")[:-1]
    return tuple(model.get_submodule(".".join(path[: end + 1])) for end in range(len(path)))


def group(parameter: Parameter, axis: Axis) -> Group:
    """The group of axes that this dimension of a parameter must be reordered with."""
    if axis is Axis.HIDDEN:
        return (axis, None, None)
    return (axis, parameter.layer, parameter.role if axis is Axis.ATTENTION else None)
