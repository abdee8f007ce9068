"""The building blocks of an axis table, and how a table applies to a concrete network."""

import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

from ..errors import CheckpointError, ElasticSpaceError, whole_number

if TYPE_CHECKING:  # budgets and counts need no torch, which takes seconds to import
    import torch
    from torch import nn


class Axis(StrEnum):
    """An elastic axis of a transformer encoder."""

    HIDDEN = "hidden"  # width of the residual stream, one for the whole network
    ATTENTION = "attention"  # width of Q, K and V (heads x head size), one per layer
    FFN = "ffn"  # inner width of the feed-forward block, one per layer


class Use(StrEnum):
    """How often the matrix product of a weight runs per example, which decides its MACs."""

    TOKEN = "token"
    PATCH = "patch"
    EXAMPLE = "example"
    NEVER = "never"  # biases, norms, look-up tables


class Role(StrEnum):
    """The product inside an attention head that a parameter belongs to.

    Q and K may be reordered together, V and O together, independently of each other.
    """

    QUERY_KEY = "query_key"
    VALUE_OUTPUT = "value_output"


Axes = tuple[Axis | None, ...]


@dataclass(frozen=True)
class Row:
    """One row of an axis table; `name` may hold `{layer}`.

    `block` is the residual block that the parameter goes with: it is not there where that block has width 0. For a
    norm it is that of the block behind it; a norm behind a block stays, since it normalises the residual stream.
    `table` marks embeddings that are looked up: one vector per word, position, token type or class token.
    """

    name: str
    axes: Axes
    use: Use = Use.NEVER
    role: Role | None = None
    table: bool = False
    block: Axis | None = None


@dataclass(frozen=True)
class Parameter:
    """A parameter of one concrete network: its row in the table, its layer and its full shape."""

    name: str
    axes: Axes
    use: Use
    role: Role | None
    layer: int | None
    shape: tuple[int, ...]
    table: bool = False
    block: Axis | None = None

    def present(self, widths: Mapping[Axis, int]) -> bool:
        """Whether a submodel with these widths has this parameter at all."""
        return self.block is None or widths[self.block] > 0

    def part(self, tensor: "torch.Tensor", widths: Mapping[Axis, int], heads: int | None) -> "torch.Tensor":
        """The part of `tensor` (full shape) that a submodel keeps, always as a view.

        With `heads`, attention keeps the first `width / heads` of every head, and that dimension comes
        back as two, `(heads, width / heads)`; without, it keeps the first `width` rows.
        """
        for dim in reversed(range(len(self.axes))):
            axis = self.axes[dim]
            if axis is None or widths[axis] == self.shape[dim]:
                continue
            if axis is Axis.ATTENTION and heads is not None:
                tensor = tensor.unflatten(dim, (heads, -1)).narrow(dim + 1, 0, widths[axis] // heads)
            else:
                tensor = tensor.narrow(dim, 0, widths[axis])
        return tensor

    def narrowed_shape(self, widths: Mapping[Axis, int]) -> tuple[int, ...]:
        """The shape of this parameter in a submodel with these widths."""
        return tuple(size if axis is None else widths[axis] for size, axis in zip(self.shape, self.axes, strict=True))


class Live(NamedTuple):
    """One moment in a layer: how many values of each width are in memory per token, weights excluded.

    Counts are for the first layer; later layers also hold the output of the embeddings, one more hidden width.
    The peak of a network is the largest moment of any layer. A moment with attention or FFN values, never both, is one
    of that block; `block` says so of a moment without them. A moment of no block occurs in every layer that is there.
    A moment that comes `once` is outside the layers, as where embeddings are added up: there, `ids` 64-bit numbers per
    token (positions, token types) may be in memory too.
    """

    hidden: int
    attention: int = 0
    ffn: int = 0
    block: Axis | None = None
    once: bool = False
    ids: int = 0

    def needs(self, hidden: int, attention: int, ffn: int) -> int:
        """Values per token in a first layer with these widths; 0 where the block is left out."""
        block = self.block or (Axis.ATTENTION if self.attention else Axis.FFN if self.ffn else None)
        if (block is Axis.ATTENTION and not attention) or (block is Axis.FFN and not ffn):
            return 0
        return self.hidden * hidden + self.attention * attention + self.ffn * ffn


@dataclass(frozen=True)
class Family:
    """An architecture family: its axis table and the names its code and configuration use."""

    model_type: str
    label: str  # as in titles of figures
    auto_class: str
    rows: tuple[Row, ...]
    attention_module: str  # path of the module that splits heads, with `{layer}`
    head_size_name: str  # its attribute that holds the head size
    live: tuple[Live, ...]  # the moments of a layer that can be the peak, with fused attention and activation
    # norm before a block -> the linear layers it feeds; empty where norms stand after the blocks
    norm_readers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    hidden_key: str = "hidden_size"
    ffn_key: str = "intermediate_size"
    heads_key: str = "num_attention_heads"
    layers_key: str = "num_hidden_layers"
    counts_positions_from_padding: bool = False  # the first position is number `pad_token_id + 1`

    @property
    def is_image(self) -> bool:
        """Whether the inputs are images rather than text."""
        return self.auto_class == "AutoModelForImageClassification"

    @property
    def classifier(self) -> str:
        """The module that gives the logits, a linear layer: the last row of the table."""
        return self.rows[-1].name.rpartition(".")[0]

    @property
    def size_metric(self) -> str:
        """The size shown in figures, as published: for text models, parameters without the look-up tables."""
        return "parameters" if self.is_image else "encoder_parameters"

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], Row]]:
        return [(re.compile(re.escape(row.name).replace(r"\{layer\}", r"(\d+)") + "$"), row) for row in self.rows]

    def widths(self, config: Any) -> tuple[int, int, int, int]:
        """(layers, heads, hidden width, FFN width) of the full network."""
        keys = (self.layers_key, self.heads_key, self.hidden_key, self.ffn_key)
        layers, heads, hidden, ffn = (int(getattr(config, key)) for key in keys)
        return layers, heads, hidden, ffn

    def patches(self, config: Any) -> int | None:
        """Number of image patches, or None for a text model."""
        if not hasattr(config, "patch_size"):
            return None
        sides = [v if isinstance(v, Iterable) else (v, v) for v in (config.image_size, config.patch_size)]
        (height, width), (patch_height, patch_width) = sides
        return (height // patch_height) * (width // patch_width)

    def positions(self, config: Any) -> int:
        """The longest text that a text model accepts, in tokens, special tokens included."""
        if self.counts_positions_from_padding and config.pad_token_id is None:
            raise CheckpointError(
                f"pad_token_id is null in the configuration, but {self.label} counts positions from it: put the number "
                "of the tokenizer's padding token into config.json (1 in the published networks)"
            )
        unused = config.pad_token_id + 1 if self.counts_positions_from_padding else 0
        return int(config.max_position_embeddings) - unused

    def parameters(self, model: "nn.Module") -> tuple[Parameter, ...]:
        """Apply the axis table to a network: one entry for each of its parameters."""
        return tuple(self._parameter(name, tuple(p.shape)) for name, p in model.named_parameters())

    def _parameter(self, name: str, shape: tuple[int, ...]) -> Parameter:
        for pattern, row in self._patterns:
            if match := pattern.match(name):
                layer = int(match[1]) if match.groups() else None
                return Parameter(name, row.axes, row.use, row.role, layer, shape, row.table, row.block)
        raise CheckpointError(
            f"parameter {name!r} has no row in the axis table of family {self.model_type!r}; "
            "use a plain classification checkpoint, or add the row in raffm_utils/space/families.py"
        )


class Totals(NamedTuple):
    """All that a cost sees of a submodel besides its hidden width: total widths, and how many blocks are present."""

    attention: int
    attention_blocks: int
    ffn: int
    ffn_blocks: int


@dataclass(frozen=True)
class SubmodelConfig:
    """The widths of one submodel: one hidden width, and attention and FFN widths for every layer.

    A width of 0 leaves the block out: the residual stream passes it by. Elastic depth is the case of both in a layer.
    Widths may be given as any kind of whole numbers and any kind of sequence.

    Example:
        >>> config = SubmodelConfig(hidden=48, attention=(48, 32), ffn=(64, 40))
        >>> SubmodelConfig.from_arc(config.to_arc()) == config
        True
    """

    hidden: int
    attention: tuple[int, ...]
    ffn: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", whole_number(ElasticSpaceError, hidden=self.hidden))
        for name in ("attention", "ffn"):
            object.__setattr__(self, name, _whole_widths(name, getattr(self, name)))
        if len(self.attention) != len(self.ffn) or not self.attention:
            raise ElasticSpaceError(
                f"{len(self.attention)} attention widths and {len(self.ffn)} FFN widths: give one of each per layer"
            )

    @property
    def totals(self) -> Totals:
        """Total widths, and the numbers of blocks that are present."""
        return Totals(sum(self.attention), sum(map(bool, self.attention)), sum(self.ffn), sum(map(bool, self.ffn)))

    def widths(self, layer: int | None) -> dict[Axis, int]:
        """Width of every axis in `layer`; outside the layers only the hidden axis has one."""
        if layer is None:
            return {Axis.HIDDEN: self.hidden}
        return {Axis.HIDDEN: self.hidden, Axis.ATTENTION: self.attention[layer], Axis.FFN: self.ffn[layer]}

    @classmethod
    def from_arc(cls, arc: Mapping[str, Mapping[str, int]], hidden: int | None = None) -> "SubmodelConfig":
        """Read the published form `{"layer_1": {"atten_out", "inter_hidden", "residual_hidden"}, ...}`.

        The earliest published architectures have no `residual_hidden`: give the full width as `hidden`.
        """
        try:
            rows = [arc[f"layer_{i + 1}"] for i in range(len(arc))]
            attention, ffn = ([row[key] for row in rows] for key in ("atten_out", "inter_hidden"))
        except (KeyError, TypeError) as error:
            raise ElasticSpaceError(
                f"not a published architecture ({error!r}): expected layer_1 ... layer_N, each with "
                "'atten_out', 'inter_hidden' and 'residual_hidden'"
            ) from error
        found = {row["residual_hidden"] for row in rows if "residual_hidden" in row}
        found = found or ({hidden} if hidden is not None else set())
        if len(found) != 1:
            raise ElasticSpaceError(
                f"'residual_hidden' is {sorted(found) or 'missing'}: a network has one hidden width; "
                "give every layer the same, or pass hidden=..."
            )
        return cls(found.pop(), tuple(attention), tuple(ffn))

    def to_arc(self) -> dict[str, dict[str, int]]:
        """The published form; inverse of `from_arc`."""
        return {
            f"layer_{i + 1}": {"atten_out": a, "inter_hidden": f, "residual_hidden": self.hidden}
            for i, (a, f) in enumerate(zip(self.attention, self.ffn, strict=True))
        }


def _whole_widths(name: str, widths: Iterable[SupportsIndex]) -> tuple[int, ...]:
    try:
        return tuple(map(operator.index, widths))
    except TypeError as error:
        raise ElasticSpaceError(f"{name}={widths!r}: give a whole number for every layer") from error
