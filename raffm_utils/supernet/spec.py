"""Reads `elastic_space.json`, published files and our own; errors are reported before any work is done."""

import difflib
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ElasticSpaceError, shown
from ..files import read_json
from ..space import CostModel, ElasticSpace, SubmodelConfig

PER_HEAD, CONTIGUOUS = "per_head", "contiguous"
ATTENTION_KEY, FFN_KEY, HIDDEN_KEY = "atten_out_space", "inter_hidden_space", "residual_hidden_space"
KNOWN_KEYS = (
    ATTENTION_KEY,
    FFN_KEY,
    HIDDEN_KEY,
    "head_slicing",
    "provenance",
    "out_hidden_space",
)  # the last: no effect
Widths = tuple[int, ...]


@dataclass(frozen=True)
class ElasticSpec:
    """The content of an `elastic_space.json`; None on an axis means that it is not elastic.

    An axis with a width per layer may give one list of choices, or one list per layer; a 0 in a list says that the
    block may be left out.
    """

    source: str
    attention: Widths | tuple[Widths, ...] | None
    ffn: Widths | tuple[Widths, ...] | None
    hidden: Widths | None
    head_slicing: str
    provenance: Mapping[str, Any]

    @classmethod
    def from_json(cls, content: object, source: str) -> "ElasticSpec":
        """Check the types of a decoded file; `source` names it in errors."""
        if not isinstance(content, Mapping):
            raise ElasticSpaceError(f"{source}: expected an object with {ATTENTION_KEY!r}, ..., got {shown(content)}")
        for key in content:
            if key not in KNOWN_KEYS:
                near = difflib.get_close_matches(str(key), KNOWN_KEYS, n=1)
                meant = f", probably meant as {near[0]!r}" if near else ""
                raise ElasticSpaceError(
                    f"{source}: unknown key {shown(key)}{meant}: correct or remove it; known are "
                    f"{', '.join(KNOWN_KEYS)}"
                )
        slicing = content.get("head_slicing", CONTIGUOUS)
        if slicing not in (PER_HEAD, CONTIGUOUS):
            raise ElasticSpaceError(
                f"{source}: head_slicing={shown(slicing)}: give {PER_HEAD!r}, {CONTIGUOUS!r}, or leave it out"
            )
        provenance = content.get("provenance", {})
        if not isinstance(provenance, Mapping):
            raise ElasticSpaceError(f"{source}: provenance={shown(provenance)}: give an object, or leave it out")
        return cls(
            source,
            _choices(content, ATTENTION_KEY, source, per_layer=True),
            _choices(content, FFN_KEY, source, per_layer=True),
            _choices(content, HIDDEN_KEY, source, per_layer=False),
            slicing,
            provenance,
        )

    @classmethod
    def from_file(cls, path: Path) -> "ElasticSpec":
        """Read a file; raises `ElasticSpaceError` if it is not JSON."""
        return cls.from_json(read_json(path, ElasticSpaceError), str(path))

    @property
    def dataset(self) -> str:
        """The data that the checkpoint was trained on; raises `CheckpointError` if the file does not name it."""
        if not isinstance(name := self.provenance.get("dataset"), str):
            raise CheckpointError(
                f"{self.source}: does not say what data the checkpoint was trained on: "
                'add "provenance": {"dataset": ...}'
            )
        return name

    def to_json(self) -> dict[str, Any]:
        """The object to write; inverse of `from_json` after a pass through JSON, which turns tuples into lists."""
        keys = {ATTENTION_KEY: self.attention, FFN_KEY: self.ffn, HIDDEN_KEY: self.hidden}
        spaces = {key: value for key, value in keys.items() if value is not None}
        return {**spaces, "head_slicing": self.head_slicing, "provenance": dict(self.provenance)}

    def space(self, full: SubmodelConfig, heads: int, costs: CostModel | None = None) -> ElasticSpace:
        """The space of a network with these full widths; raises `ElasticSpaceError` when it does not fit."""
        return ElasticSpace(
            self._fit(HIDDEN_KEY, self.hidden, (full.hidden,), 1)[0],
            self._fit(ATTENTION_KEY, self.attention, full.attention, heads),
            self._fit(FFN_KEY, self.ffn, full.ffn, 1),
            costs,
        )

    def within(self, space: ElasticSpace, config: SubmodelConfig, layers: Sequence[int]) -> "ElasticSpec":
        """What a submodel of this space offers as a supernet of its own: its widths, and all choices below them.

        `layers` are those that it has.
        """
        return replace(
            self,
            attention=tuple(_within(space.attention[i], config.attention[i]) for i in layers),
            ffn=tuple(_within(space.ffn[i], config.ffn[i]) for i in layers),
            hidden=_within(space.hidden, config.hidden),
        )

    def _fit(
        self, key: str, choices: Widths | tuple[Widths, ...] | None, full: Widths, step: int
    ) -> tuple[Widths, ...]:
        """The choices of every layer, given the full width of every layer."""
        if choices is None:
            return tuple((width,) for width in full)
        nested = isinstance(choices[0], tuple)
        groups: Any = choices if nested else (choices,) * len(full)
        if len(groups) != len(full):
            raise ElasticSpaceError(
                f"{self.source}: {key} has {len(groups)} lists, but the network has {len(full)} layers: "
                "give one list for all, or one per layer"
            )
        for layer, (group, most) in enumerate(zip(groups, full, strict=True), 1):
            if (widest := max(group)) > most:
                where = f"layer {layer}" if len(full) > 1 else "this network"
                raise ElasticSpaceError(
                    f"{self.source}: {key} holds {widest}, above the full width {most} of {where}: remove it, "
                    "or put the weights beside it that it belongs to"
                )
            if odd := [width for width in group if width % step]:
                raise ElasticSpaceError(
                    f"{self.source}: {key} holds {odd[0]}, which {step} heads cannot share: give multiples of {step}"
                )
        return tuple(groups)


def _within(choices: Widths, width: int) -> Widths:
    return (width, *(choice for choice in choices if choice < width))


def _choices(content: Mapping[str, Any], key: str, source: str, *, per_layer: bool) -> Any:
    value = content.get(key)
    if value in (None, "None"):
        return None
    least = 0 if per_layer else 1
    value = value if isinstance(value, list | tuple) else [value]
    if per_layer and value and all(isinstance(part, list | tuple) for part in value):
        return tuple(_widths(part, key, source, least) for part in value)
    return _widths(value, key, source, least)


def _widths(value: Sequence[Any], key: str, source: str, least: int) -> Widths:
    try:
        widths = [-1 if isinstance(width, bool) else operator.index(width) for width in value]
    except TypeError:
        widths = []
    if not widths or min(widths) < least:
        raise ElasticSpaceError(
            f"{source}: {key}={shown(value)}: give a list of positive whole numbers"
            + (", and 0 where the block may be left out" if least == 0 else "")
        )
    return tuple(sorted(set(widths), reverse=True))
