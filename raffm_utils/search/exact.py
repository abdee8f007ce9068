"""Exact search inside a budget: dynamic programming over the layers of each axis."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import numpy as np

from ..errors import ElasticSpaceError, InfeasibleBudget
from ..space import Axis, Budget, ElasticSpace, Region, Rng, SubmodelConfig, Ways, generator
from .predictor import Predicted
from .surface import Additive


class BestWays:
    """The best way to every entry of `Ways`: `best[n][k]` is its score, -inf where there is none."""

    def __init__(self, ways: Ways, scores: Sequence[np.ndarray]) -> None:
        self.ways, self._scores = ways, scores  # keeps the ways alive, whose identity is a key
        layers, longest = len(ways.choices), max(len(row) for row in ways.totals)
        self._stages = [np.full((layers + 1, longest), -np.inf)]
        self._stages[0][0, 0] = 0
        for options, values in zip(ways.choices, scores, strict=True):
            before, after = self._stages[-1], np.full((layers + 1, longest), -np.inf)
            for width, value in zip(options, values, strict=True):
                block, step = int(width > 0), ways.step(width)
                part = after[block:, step:]
                np.maximum(part, before[: layers + 1 - block, : longest - step] + value, out=part)
            self._stages.append(after)
        self.best = [row[: len(totals)] for row, totals in zip(self._stages[-1], ways.totals, strict=True)]

    def widths(self, n: int, k: int) -> tuple[int, ...]:
        """The width of every layer on the best way to entry `k` of row `n`."""
        found = []
        layers = zip(self.ways.choices, self._scores, self._stages[:-1], strict=True)
        for options, scores, stage in reversed(list(layers)):
            left = [(n - (width > 0), k - self.ways.step(width)) for width in options]
            values = [
                stage[place] + score if min(place) >= 0 else -np.inf for place, score in zip(left, scores, strict=True)
            ]
            picked = int(np.argmax(values))
            found.append(options[picked])
            n, k = left[picked]
        return tuple(reversed(found))


def highest_between(values: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The argmax of `values` over each range first..last-1; 0 for empty ranges.

    By a running maximum where all ranges begin at 0, as under upper limits alone; else by a sparse table.
    """
    if not first.any():
        top = np.maximum.accumulate(values)
        leads = np.concatenate([[True], values[1:] > top[:-1]])
        return np.maximum.accumulate(np.where(leads, np.arange(len(values)), 0))[np.maximum(last - 1, 0)]
    length = np.maximum(last - first, 1)
    levels = [np.arange(len(values))]
    while 2 ** len(levels) <= length.max():
        half = 2 ** (len(levels) - 1)
        left, right = levels[-1][:-half], levels[-1][half:]
        levels.append(np.where(values[left] >= values[right], left, right))
    level = np.floor(np.log2(length)).astype(int)
    result = np.zeros(len(first), dtype=np.int64)
    for number, maxima in enumerate(levels):
        asked = np.flatnonzero((level == number) & (last > first))
        left, right = maxima[first[asked]], maxima[last[asked] - 2**number]
        result[asked] = np.where(values[left] >= values[right], left, right)
    return result


DRAWS_PER_SUBMODEL = 10  # where the data leave little doubt, or little fits, draws agree on few submodels


class Predictor(Protocol):
    """The interface that search needs (see `AccuracyPredictor`)."""

    @property
    def surface(self) -> Additive:
        """The score to maximise."""

    def plausible(self, rng: np.random.Generator) -> Additive:
        """An alternative score that is consistent with the same data."""

    def predict(self, config: SubmodelConfig) -> Predicted:
        """A predicted accuracy with its interval."""


@dataclass(frozen=True)
class FrontPoint:
    """A submodel that no smaller one is predicted to beat; `cost` is in units of the metric asked for."""

    config: SubmodelConfig
    cost: float
    predicted: Predicted


def best_submodel(space: ElasticSpace, predictor: Predictor, budget: Budget | None = None) -> SubmodelConfig:
    """The submodel with the highest predicted accuracy of all inside `budget`, found exactly, in milliseconds.

    Raises `InfeasibleBudget`, with the reachable range, when nothing fits.

    Example:
        predictor = AccuracyPredictor.fit(read_sweep("sweep-validation.jsonl"), supernet.space)
        config = best_submodel(supernet.space, predictor, Budget(max_parameters=12e6))
    """
    return _Search(space, predictor.surface).best_by_hidden(budget or Budget())[0]


def best_submodels(
    space: ElasticSpace, predictor: Predictor, budget: Budget | None, number: int, rng: Rng
) -> list[SubmodelConfig]:
    """Up to `number` different submodels worth measuring: the best one first, then ones that might be.

    Half of them are the best at each hidden width, in order of predicted accuracy. The others are exact optima of
    alternative scores that are consistent with the same data (Thompson sampling), so they differ where the predictor
    is uncertain. Fewer are returned if there is little uncertainty or few fit. Raises `InfeasibleBudget` if none does.
    """
    _check_number(number)
    rng, budget = generator(rng), budget or Budget()
    by_width = _Search(space, predictor.surface).best_by_hidden(budget)
    found = dict.fromkeys(by_width[: max(1, number // 2)])
    for _ in range(DRAWS_PER_SUBMODEL * number):
        if len(found) == number:
            break
        found[_Search(space, predictor.plausible(rng)).best_by_hidden(budget)[0]] = None
    return list(dict.fromkeys([*found, *by_width]))[:number]


def promising_submodels(
    space: ElasticSpace, predictor: Predictor, number: int, rng: Rng, metric: str = "parameters"
) -> list[SubmodelConfig]:
    """Up to `number` different submodels of all sizes whose measurement would teach a predictor most about the best.

    Each is the exact optimum of an alternative score (Thompson sampling) under a limit on one cost; limits are spread
    evenly over its logarithm. The best are unlike random ones, so a predictor that has seen only those overrates them.
    """
    _check_metric(metric)
    _check_number(number)
    rng, found = generator(rng), dict[SubmodelConfig, None]()
    for budget in _budgets(space, metric, number + 2)[1:-1]:
        found[_Search(space, predictor.plausible(rng)).best_by_hidden(budget)[0]] = None
    return list(found)


def largest_submodel(space: ElasticSpace, budget: Budget | None = None, metric: str = "parameters") -> SubmodelConfig:
    """The submodel with the highest cost of all inside `budget`; among equals, the one with the most even layers.

    Raises `InfeasibleBudget`, with the reachable range, when nothing fits.
    """
    _check_metric(metric)
    if metric == "peak_activation_bytes":  # no sum over layers
        raise ElasticSpaceError(f"metric={metric!r} is set by one layer alone: ask for the largest by another metric")
    budget = budget or Budget()
    return _Search(space, _Size(space, metric)).best_by_hidden(budget)[0]


def pareto_front(
    space: ElasticSpace, predictor: Predictor, metric: str = "parameters", points: int = 40
) -> list[FrontPoint]:
    """The best submodels at up to `points` limits spread evenly over the logarithm of one cost, from small to large.

    Each is the exact best under its limit. A limit that brings no improvement adds no point.
    """
    _check_metric(metric)
    if points < 2:
        raise ElasticSpaceError(f"points={points}: a front needs at least 2")
    search, front = _Search(space, predictor.surface), dict[SubmodelConfig, FrontPoint]()
    for budget in _budgets(space, metric, points):
        config = search.best_by_hidden(budget)[0]
        if config not in front:
            front[config] = FrontPoint(config, space.cost_of(config, metric), predictor.predict(config))
    return list(front.values())


def _budgets(space: ElasticSpace, metric: str, number: int) -> list[Budget]:
    """Limits on one cost from the smallest submodel to the full network, spread evenly over its logarithm."""
    least, most = space.reach(metric)
    spaced = np.geomspace if least > 0 else np.linspace
    # the ends exactly, whatever rounding does to them
    limits = (least, *np.clip(spaced(least, most, number)[1:-1], least, most), most)
    return [Budget(**{f"max_{metric}": float(limit)}) for limit in limits]


class _Search:
    """Exact maximisation of one score inside any number of budgets."""

    def __init__(self, space: ElasticSpace, score: Additive) -> None:
        self.space, self.score = space, score
        self._tables: dict[tuple[Axis, int], BestWays] = {}

    def best_by_hidden(self, budget: Budget) -> list[SubmodelConfig]:
        """The best submodel at every hidden width at which one fits, sorted by score."""
        regions = [region for region in self.space.inside(budget).regions if region.count]
        if not regions:
            raise InfeasibleBudget(self.space.why_infeasible(budget))
        found = sorted(map(self._best_in, regions), key=lambda candidate: -candidate.score)
        best = dict[int, _Candidate]()
        for candidate in found:  # a limit on peak activations may leave several regions of one hidden width
            best.setdefault(candidate.region.hidden, candidate)
        return [
            SubmodelConfig(
                each.region.hidden,
                self._table(Axis.ATTENTION, each.region.attention).widths(*each.region.place(each.entry)),
                self._table(Axis.FFN, each.region.ffn).widths(each.n, each.k),
            )
            for each in best.values()
        ]

    def _best_in(self, region: Region) -> "_Candidate":
        """The highest score of a region, and where it is reached."""
        attention = np.concatenate(self._table(Axis.ATTENTION, region.attention).best)
        attention += self.score.total_scores(Axis.ATTENTION, region.hidden, region.blocks, region.total)
        best, ffn = _Candidate(-np.inf, region, 0, 0, 0), self._table(Axis.FFN, region.ffn).best
        for n, (first, last) in region.spans.items():
            some = np.flatnonzero(last > first)
            if not len(some):
                continue
            totals = region.ffn.totals[n]
            values = ffn[n] + self.score.total_scores(Axis.FFN, region.hidden, np.full(len(totals), n), totals)
            columns = highest_between(values, first[some], last[some])
            scores = attention[some] + values[columns]
            scores += self.score.joint_scores(region.hidden, region.blocks[some], region.total[some], n)
            place = int(scores.argmax())
            if scores[place] > best.score:
                best = _Candidate(float(scores[place]), region, int(some[place]), n, int(columns[place]))
        return best._replace(score=best.score + self.score.base(region.hidden))

    def _table(self, axis: Axis, ways: Ways) -> BestWays:
        key = (axis, id(ways))
        if key not in self._tables:
            scores = [self.score.layer_scores(axis, layer, np.array(c)) for layer, c in enumerate(ways.choices)]
            self._tables[key] = BestWays(ways, scores)
        return self._tables[key]


class _Candidate(NamedTuple):
    """A score, and the entries of attention and FFN (`k` of row `n`) of a region that reach it."""

    score: float
    region: Region
    entry: int
    n: int
    k: int


class _Size:
    """A cost as a score, plus a bonus for even layers that is smaller than any step of the cost."""

    def __init__(self, space: ElasticSpace, metric: str) -> None:
        space.reach(metric)  # raises where costs are not known
        assert space.costs is not None
        self._affine = {hidden: space.costs.affine(hidden, (metric,))[metric] for hidden in space.hidden}
        self._widest = {Axis.ATTENTION: space.attention, Axis.FFN: space.ffn}

    def base(self, hidden: int) -> float:
        return self._affine[hidden].base

    def total_scores(self, axis: Axis, hidden: int, blocks: np.ndarray, totals: np.ndarray) -> np.ndarray:
        _, *prices = self._affine[hidden]
        per_width, per_block = prices[:2] if axis is Axis.ATTENTION else prices[2:]
        return per_width * totals.astype(float) + per_block * blocks

    def joint_scores(self, hidden: int, blocks: np.ndarray, totals: np.ndarray, ffn_blocks: int) -> np.ndarray:
        return np.zeros(len(blocks))

    def layer_scores(self, axis: Axis, layer: int, widths: np.ndarray) -> np.ndarray:
        choices = self._widest[axis]
        return -((widths / max(1, choices[layer][0])) ** 2) / (4 * len(choices))


def _check_metric(metric: str) -> None:
    known = [item.name.removeprefix("max_") for item in fields(Budget) if item.name.startswith("max_")]
    if metric not in known:
        raise ElasticSpaceError(f"metric={metric!r}: give one of {', '.join(known)}")


def _check_number(number: int) -> None:
    if number < 1:
        raise ElasticSpaceError(f"number={number}: ask for at least 1 submodel")
