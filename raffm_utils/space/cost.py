"""What a submodel costs, in closed form: parameters, MACs, bytes, peak activations, latency."""

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Integral

from ..errors import ElasticSpaceError
from .axes import Axis, Live, Parameter, SubmodelConfig, Use
from .budget import LATENCY, METRICS, NS_PER_MS, Affine, Choices
from .latency import AffineLatency

ID_BYTES = 8  # of a token, position or token type


class PeakActivation:
    """Peak bytes of activations in memory at the same time, in closed form."""

    def __init__(self, live: tuple[Live, ...], bytes_per_value: int, layers_vanish: bool = False) -> None:
        """`layers_vanish`: a layer without both blocks is not there, so that a later one can be the first."""
        self.live = live
        self.bytes_per_value = bytes_per_value
        self.layers_vanish = layers_vanish

    def bytes(self, hidden: int, attention: Sequence[int], ffn: Sequence[int], tokens: int) -> int:
        """The peak of one example of `tokens` tokens: the largest moment of all layers."""
        values, embeddings = self._outside(hidden), 0
        for a, f in zip(attention, ffn, strict=True):
            if not (self.layers_vanish and not a and not f):
                values, embeddings = max(values, self._moment(hidden, a, f) + embeddings), hidden
        return tokens * values * self.bytes_per_value

    def within(
        self, hidden: int, attention: Choices, ffn: Choices, tokens: int, limit: int
    ) -> list[tuple[Choices, Choices]]:
        """The choices of every layer that keep the peak within `limit` bytes: sets without a common submodel.

        A moment holds attention or FFN values, never both, so the two are limited separately. The first layer that is
        there has one hidden width more to spend than those behind it; which it is decides what the others may have.
        """
        values = limit // (tokens * self.bytes_per_value)
        if self._outside(hidden) > values:
            return []
        axes = list(zip(attention, ffn, strict=True))
        first, later = ([self._kept(v, hidden, *layer) for layer in axes] for v in (values, values - hidden))
        sets = [[first[0], *later[1:]]]
        if self.layers_vanish and first != later:
            sets = []
            before: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
            for layer, (own_attention, own_ffn) in enumerate(first):
                with_attention = (tuple(a for a in own_attention if a), own_ffn)
                without = (tuple(a for a in own_attention if not a), tuple(f for f in own_ffn if f))
                sets += [[*before, begin, *later[layer + 1 :]] for begin in (with_attention, without)]
                before = [*before, (tuple(a for a in own_attention if not a), tuple(f for f in own_ffn if not f))]
            sets.append(before)
        return [tuple(zip(*layers, strict=True)) for layers in sets if all(a and f for a, f in layers)]  # type: ignore[misc]

    def _moment(self, hidden: int, attention: int, ffn: int) -> int:
        """Values per token in the largest moment of a first layer."""
        return max((m.needs(hidden, attention, ffn) for m in self.live if not m.once), default=0)

    def _outside(self, hidden: int) -> int:
        """Values per token in the largest moment outside the layers."""
        per_id = ID_BYTES // self.bytes_per_value
        return max((m.hidden * hidden + m.ids * per_id for m in self.live if m.once), default=0)

    def _kept(
        self, values: int, hidden: int, attention: tuple[int, ...], ffn: tuple[int, ...]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        def keeps(a: int, f: int) -> bool:
            # a layer that is not there has no moments at all
            return self._moment(hidden, a, f) <= values or (self.layers_vanish and not a and not f)

        return tuple(a for a in attention if keeps(a, 0)), tuple(f for f in ffn if keeps(0, f))


@dataclass(frozen=True)
class Cost:
    """The costs of a submodel; `macs` are multiply-accumulates per example, None if the token count is unknown.

    MACs count matrix products, convolution and attention, not norms, activations or softmax; one MAC is
    two FLOPs. `weight_bytes` is what the parameters take in memory at the supernet's precision.
    `encoder_parameters` leave out the embeddings: the tables of words, positions and token types and the
    class token of an image model, but not their norm, nor the projection of image patches.

    `latency_ms` is what the supernet's latency model predicts for one pass of its batch size, one example by
    default; None without a model or at another token count.
    `peak_activation_bytes` are of the tensors alive at once while one example without padding is computed in
    inference mode by PyTorch, with its fused attention (`sdpa`, the default) and a one-kernel activation
    function such as GELU; weights, inputs and what an operator needs inside itself are left out.
    """

    parameters: int
    macs: int | None
    weight_bytes: int
    encoder_parameters: int
    latency_ms: float | None = None
    peak_activation_bytes: int | None = None


@dataclass(frozen=True)
class Conditions:
    """What costs depend on besides the submodel: the length of a text in tokens, and a latency model."""

    tokens: int | None = None
    latency: AffineLatency | None = None


class CostModel:
    """Closed-form costs of every submodel of one network, under fixed `conditions`.

    `image_tokens` and `patches` are None for a text model, which takes up to `positions` tokens. `live` are the moments
    of its family that can be the peak of activations.
    """

    def __init__(
        self,
        parameters: tuple[Parameter, ...],
        *,
        patches: int | None = None,
        positions: int | None = None,
        bytes_per_parameter: int = 4,
        live: tuple[Live, ...] = (),
    ) -> None:
        self.parameters = parameters
        self.patches = patches
        self.positions = positions
        self.image_tokens = None if patches is None else patches + 1
        self.bytes_per_parameter = bytes_per_parameter
        self.conditions = Conditions()
        layers_vanish = all(p.block is not None for p in parameters if p.layer is not None)
        self._peak = PeakActivation(live, bytes_per_parameter, layers_vanish)
        # all layers share one table: a block's prices are read off the first that has it
        self._first: dict[Axis, int | None] = {}
        for p in parameters:
            if p.block is not None:
                self._first.setdefault(p.block, p.layer)
        self._affine = lru_cache(maxsize=4096)(self._compute)

    def under(self, conditions: Conditions) -> "CostModel":
        """The same network under other conditions; images keep their own number of tokens.

        Raises `ElasticSpaceError` for a token count that the model does not take.
        """
        tokens, most = conditions.tokens, self.positions or math.inf
        if self.image_tokens is not None:
            conditions = replace(conditions, tokens=None)
        elif tokens is not None:
            if not isinstance(tokens, Integral) or not 1 <= tokens <= most:
                raise ElasticSpaceError(
                    f"tokens={tokens!r}: give a whole number from 1 to {most}, the model's positions"
                )
            conditions = replace(conditions, tokens=int(tokens))
        if conditions == self.conditions:
            return self
        twin = copy.copy(self)
        twin.conditions = conditions
        return twin

    @property
    def tokens(self) -> int | None:
        """The token count of MACs and activations; None for a text model that was given none."""
        return self.image_tokens or self.conditions.tokens

    def counted_at(self) -> int:
        """The token count of MACs and activations; raises `ElasticSpaceError` if a text model has none."""
        if (tokens := self.tokens) is None:
            raise ElasticSpaceError("MACs and activations of a text model need a token count: set supernet.tokens = 64")
        return tokens

    def affine(self, hidden: int, metrics: Iterable[str] = METRICS) -> dict[str, Affine]:
        """The named costs at one hidden width, as affine functions of `Totals`."""
        return {
            m: self._latency.affine(hidden)
            if m == LATENCY
            else self._affine(m, hidden, self.counted_at() if m == "macs" else None)
            for m in metrics
        }

    def peak(self, hidden: int, attention: Sequence[int], ffn: Sequence[int]) -> int:
        """Peak activation memory of one example, in bytes (see `Cost`)."""
        return self._known_peak.bytes(hidden, attention, ffn, self.counted_at())

    def within_peak(self, hidden: int, attention: Choices, ffn: Choices, limit: int) -> list[tuple[Choices, Choices]]:
        """The choices of every layer that keep the peak within `limit` bytes (see `PeakActivation.within`)."""
        return self._known_peak.within(hidden, attention, ffn, self.counted_at(), limit)

    def cost(self, config: SubmodelConfig) -> Cost:
        """All costs of one submodel; without a token count, `macs` and `peak_activation_bytes` of text are None."""
        tokens, latency = self.tokens, self.conditions.latency
        metrics = [m for m in METRICS if m != "macs" or tokens is not None]
        if latency is not None and (self.image_tokens is not None or tokens in (None, latency.tokens)):
            metrics.append(LATENCY)
        values = {m: affine(config.totals) for m, affine in self.affine(config.hidden, metrics).items()}
        macs, nanoseconds = values.pop("macs", None), values.pop(LATENCY, None)
        return Cost(
            macs=macs,
            latency_ms=None if nanoseconds is None else nanoseconds / NS_PER_MS,
            peak_activation_bytes=self.peak(config.hidden, config.attention, config.ffn)
            if tokens is not None and self._peak.live
            else None,
            **values,
        )

    def macs(self, config: SubmodelConfig, tokens: int) -> int:
        """MACs of one example at any token count, also for image models that see only some of the patches."""
        return self._affine("macs", config.hidden, tokens)(config.totals)

    @property
    def _known_peak(self) -> PeakActivation:
        if not self._peak.live:
            raise ElasticSpaceError("peak_activation_bytes is not known: give CostModel the `live` of its family")
        return self._peak

    @property
    def _latency(self) -> AffineLatency:
        if (latency := self.conditions.latency) is None:
            raise ElasticSpaceError(
                "latency_ms is not known before it is measured: set supernet.latency = LatencyModel.fit(supernet, ...)"
            )
        if self.image_tokens is None and self.tokens not in (None, latency.tokens):
            raise ElasticSpaceError(
                f"tokens={self.tokens}, but latency was measured at {latency.tokens}: give that number, or fit again"
            )
        return latency

    def _compute(self, metric: str, hidden: int, tokens: int | None) -> Affine:
        if metric == "weight_bytes":
            return Affine(*(self.bytes_per_parameter * part for part in self._affine("parameters", hidden, None)))
        base, per_width, per_block = 0, {Axis.ATTENTION: 0, Axis.FFN: 0}, {Axis.ATTENTION: 0, Axis.FFN: 0}
        for p in self.parameters:
            if (p.table and metric == "encoder_parameters") or (p.block and p.layer != self._first[p.block]):
                continue
            size = math.prod(
                hidden if axis is Axis.HIDDEN else full
                for axis, full in zip(p.axes, p.shape, strict=True)
                if axis in (Axis.HIDDEN, None)
            )
            if metric == "macs":
                size *= {Use.TOKEN: tokens, Use.PATCH: self.patches, Use.EXAMPLE: 1, Use.NEVER: 0}[p.use] or 0
            if p.block is None:
                base += size
            else:
                (per_width if p.block in p.axes else per_block)[p.block] += size
        if metric == "macs" and tokens is not None:
            per_width[Axis.ATTENTION] += 2 * tokens**2  # Q K^T, and attention times V
        return Affine(base, *(price[axis] for axis in per_width for price in (per_width, per_block)))
