"""Made-up costs, scores and sweeps for the tests of searching."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np

from raffm_utils.evaluation import SweepRow
from raffm_utils.space import (
    METRICS,
    Affine,
    Axis,
    CostModel,
    ElasticSpace,
    SubmodelConfig,
    spread_over_size,
    spread_over_widths,
)


class Costs(CostModel):
    """Costs that are affine in the totals and grow with every width."""

    def __init__(self, scale: tuple[int, int, int] = (7, 2, 3)) -> None:
        super().__init__((), patches=0)
        self.scale = scale

    def affine(self, hidden: int, metrics: Iterable[str] = METRICS) -> dict[str, Affine]:
        base, attention, ffn = self.scale
        return {
            m: Affine(base * hidden, attention * hidden + i * i, 3 * hidden + i, ffn * hidden + 5 * i, hidden + 7 * i)
            for i, m in enumerate(METRICS)
            if m in metrics
        }


class Tables:
    """A score with any number at all for every hidden width, total and layer; stands for a predictor too."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @property
    def surface(self) -> "Tables":
        return self

    def _random(self, *key: int) -> float:
        return float(np.random.default_rng([self.seed, *key]).normal())

    def base(self, hidden: int) -> float:
        return self._random(1, hidden)

    def total_scores(self, axis: Axis, hidden: int, blocks: np.ndarray, totals: np.ndarray) -> np.ndarray:
        return np.array(
            [
                self._random(2, axis is Axis.FFN, hidden, int(n), int(total))
                for n, total in zip(blocks, totals, strict=True)
            ]
        )

    def joint_scores(self, hidden: int, blocks: np.ndarray, totals: np.ndarray, ffn_blocks: int) -> np.ndarray:
        return np.array(
            [self._random(4, hidden, int(n), int(total), ffn_blocks) for n, total in zip(blocks, totals, strict=True)]
        )

    def layer_scores(self, axis: Axis, layer: int, widths: np.ndarray) -> np.ndarray:
        return np.array([self._random(3, axis is Axis.FFN, layer, int(width)) for width in widths])

    def plausible(self, rng: np.random.Generator) -> "Tables":
        return Tables(int(rng.integers(2**30)))

    def predict(self, config: SubmodelConfig) -> Any:
        return SimpleNamespace(accuracy=score(self, config), low=0.0, high=1.0, note="")


def score(additive: Any, config: SubmodelConfig) -> float:
    """The sum that searching maximises, term by term."""
    value = additive.base(config.hidden)
    blocks, totals = np.array([np.count_nonzero(config.attention)]), np.array([sum(config.attention)])
    value += float(additive.joint_scores(config.hidden, blocks, totals, np.count_nonzero(config.ffn))[0])
    for axis, widths in ((Axis.ATTENTION, config.attention), (Axis.FFN, config.ffn)):
        blocks, totals = np.array([np.count_nonzero(widths)]), np.array([sum(widths)])
        value += float(additive.total_scores(axis, config.hidden, blocks, totals)[0])
        for layer, width in enumerate(widths):
            value += float(additive.layer_scores(axis, layer, np.array([width]))[0])
    return value


def make_space(layers: int = 6) -> ElasticSpace:
    """A space with one list of choices for all layers."""
    attention, ffn = ((48, 40, 32, 24),) * layers, ((128, 112, 96, 80, 64),) * layers
    return ElasticSpace((96, 80, 64), attention, ffn, Costs())


def make_row(config: SubmodelConfig, accuracy: float, **changes: Any) -> SweepRow:
    """A validation row."""
    values = dict(
        checkpoint="made-up",
        fingerprint="weights",
        config=config,
        parameters=1000 * config.hidden + sum(config.attention) + sum(config.ffn),
        macs=None,
        weight_bytes=4000,
        tokens=None,
        dataset="made_up",
        split="validation",
        data_fingerprint="examples",
        examples=1000,
        accuracy=accuracy,
        low=accuracy - 0.02,
        high=accuracy + 0.02,
        f1=accuracy,
        loss=1 - accuracy,
        seed=0,
        device="cpu",
        seconds=1.0,
        libraries="none",
    )
    return SweepRow(**{**values, **changes})


def truth(config: SubmodelConfig) -> float:
    """An accuracy that no surface holds exactly: saturating in all widths, early FFNs count more."""
    hidden, attention = config.hidden / 96, sum(config.attention) / (48 * len(config.attention))
    early = sum(f / 128 * (1.5 - i / len(config.ffn)) for i, f in enumerate(config.ffn)) / len(config.ffn)
    return 0.95 - 0.1 * np.exp(-3 * (hidden - 0.5)) - 0.05 * np.exp(-3 * attention) - 0.2 * np.exp(-2 * early)


def make_rows(space: ElasticSpace, number: int, noise: float, seed: int = 0) -> list[SweepRow]:
    """A sweep over uniform draws, measured with normal noise."""
    rng = np.random.default_rng(seed)
    configs = [space.smallest(), space.largest(), *(space.sample(None, rng) for _ in range(number - 2))]
    return [make_row(config, truth(config) + noise * rng.normal()) for config in dict.fromkeys(configs)]


def make_wide_space(layers: int = 12) -> ElasticSpace:
    """From 2 % of the size to all: few widths, and blocks that may be left out in all layers but the first and last."""
    attention, ffn = (384, 288, 192, 96, 0), (1536, 1024, 640, 256, 0)
    ends = (0, layers - 1)
    return ElasticSpace(
        (384, 288, 216, 168),
        tuple(attention[:-1] if layer in ends else attention for layer in range(layers)),
        tuple(ffn[:-1] if layer in ends else ffn for layer in range(layers)),
        Costs(),
    )


def wide_truth(config: SubmodelConfig) -> float:
    """Errors from 6 % to 35 %: every present block removes a share of what the others leave, wide ones more of it."""
    attention = [(a / 384) ** 0.3 * (1 + 0.5 * (i % 3)) for i, a in enumerate(config.attention)]
    ffn = [(f / 1536) ** 0.3 * (1.5 - i / len(config.ffn)) for i, f in enumerate(config.ffn)]
    capacity = (config.hidden / 384) ** 0.5 * (0.05 * sum(attention) + 0.06 * sum(ffn))
    return 1 - 0.055 - 0.45 * float(np.exp(-2.2 * capacity))


def make_wide_rows(space: ElasticSpace, number: int, noise: float, seed: int = 0) -> list[SweepRow]:
    """A sweep spread over widths, blocks and the logarithm of size."""
    rng = np.random.default_rng(seed)
    configs = [space.smallest(), space.largest(), *spread_over_widths(space, number - number // 2, rng)]
    configs += spread_over_size(space, number // 2 - 2, rng)
    rows = []
    for config in dict.fromkeys(configs):
        accuracy, size = wide_truth(config), int(space.cost_of(config, "parameters"))
        loss = 3 * (1 - accuracy) + noise * rng.normal()
        rows.append(make_row(config, accuracy + noise * rng.normal(), loss=loss, parameters=size))
    return rows
