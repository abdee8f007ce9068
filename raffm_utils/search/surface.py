"""Accuracy as a sum of terms that dynamic programming can maximise exactly, fitted by ridge regression.

At a given hidden width the sum has one term for the total attention width and the number of attention blocks, one for
those of the FFN, one for attention together with the number of FFN blocks, and one for each width of each layer. The
totals carry curvature and interact with the hidden width; the layers distinguish submodels of equal totals. A block
that is left out is a category, not a small width. Losses on the same examples show what a width does more finely than
right answers: a surface fitted to them may guide the other.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
from sklearn.linear_model import RidgeCV

from ..space import Axis, ElasticSpace, SubmodelConfig

ALPHAS = np.logspace(-3, 4, 15)
CURVATURE = 0.5  # prior size of squares and products beside that of the linear terms
LAYER_WEIGHTS = (0.0, 0.125, 0.25, 0.5)  # prior size of one layer's terms beside that of its total
GUIDE_WEIGHT = 2.0  # prior size of the part that is proportional to the guide
WIDTH_AXES = ((Axis.ATTENTION, "attention"), (Axis.FFN, "ffn"))


class Additive(Protocol):
    """A score of submodels: `base + total_scores of both axes + joint_scores + layer_scores in every layer`."""

    def base(self, hidden: int) -> float:
        """The term of the hidden width alone."""

    def total_scores(self, axis: Axis, hidden: int, blocks: np.ndarray, totals: np.ndarray) -> np.ndarray:
        """The term of each number of blocks and total width (attention or FFN) at one hidden width."""

    def joint_scores(self, hidden: int, blocks: np.ndarray, totals: np.ndarray, ffn_blocks: int) -> np.ndarray:
        """The term of each number of blocks and total width of attention beside so many FFN blocks."""

    def layer_scores(self, axis: Axis, layer: int, widths: np.ndarray) -> np.ndarray:
        """The term of each width of one layer, the same at every hidden width."""


class Terms:
    """The features of a submodel: widths scaled to -1 (narrowest in the space) to 1 (widest), and their products.

    Columns: hidden `h`, `h**2`; total attention `a`, `a**2`, `h a`; total FFN `f`, `f**2`, `h f`, of which totals are
    on a logarithmic scale; for every layer its attention width less the mean, its FFN width less the mean; the same of
    squares. Where blocks may be left out there are also their share `b` (-1: all that may), `b**2`, `h b`, for each
    axis; where they may on both axes, the share of FFN blocks times that of attention blocks and times `a`, since the
    one is of little use without the other; and for each of these blocks whether it is there (-1 or 1), less `b`. Beyond
    the measured range, `h`, `a` and `f` are clipped: a square would be meaningless there.
    """

    def __init__(self, space: ElasticSpace, measured: Sequence[SubmodelConfig]) -> None:
        self.layers = len(space.attention)
        self._choices = {Axis.ATTENTION: space.attention, Axis.FFN: space.ffn}
        self.optional = {
            axis: [layer for layer, options in enumerate(choices) if options[-1] == 0 and len(options) > 1]
            for axis, choices in self._choices.items()
        }
        self._hidden = space.hidden
        self.narrowest, self.widest = (f(config.hidden for config in measured) for f in (min, max))
        self._ends: dict[Axis, dict[int, tuple[int, int]]] = {axis: {} for axis, _ in WIDTH_AXES}
        for config in measured:
            for axis, name in WIDTH_AXES:
                total, ends = sum(getattr(config, name)), self._ends[axis]
                low, high = ends.get(config.hidden, (total, total))
                ends[config.hidden] = min(low, total), max(high, total)
        self.edges = lru_cache(maxsize=None)(self._edges)

    def _edges(self, axis: Axis, hidden: int) -> tuple[float, float]:
        """The least and greatest total inside the convex hull of the measured (hidden, total) pairs."""
        hidden = min(max(hidden, self.narrowest), self.widest)
        ends = self._ends[axis]
        pairs = [(i, j) for i in ends for j in ends if i <= hidden <= j]
        between = [((hidden - i) / (j - i or 1), ends[i], ends[j]) for i, j in pairs]
        low, high = ([(1 - share) * a[side] + share * b[side] for share, a, b in between] for side in (0, 1))
        return min(low), max(high)

    @property
    def joint(self) -> int:
        """How many columns are of both axes together."""
        return 2 if all(self.optional.values()) else 0

    def hidden(self, width: int) -> float:
        """A hidden width, scaled."""
        return float(_scaled(min(max(width, self.narrowest), self.widest), self._hidden[-1], self._hidden[0]))

    def total(self, axis: Axis, hidden: int, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Total widths, scaled; and their logarithms, clipped to the range measured near this hidden width."""
        narrowest, widest = (sum(choices[side] for choices in self._choices[axis]) for side in (-1, 0))
        step = min((width for choices in self._choices[axis] for width in choices if width), default=1)
        logs = [np.log(total + step) for total in (np.clip(totals, *self.edges(axis, hidden)), narrowest, widest)]
        return _scaled(totals, narrowest, widest), _scaled(*logs)

    def layer(self, axis: Axis, layer: int, widths: np.ndarray) -> np.ndarray:
        """Widths of one layer, scaled; 0 where the block is left out."""
        choices = [width for width in self._choices[axis][layer] if width] or [0]
        return np.where(np.asarray(widths) == 0, 0.0, _scaled(widths, choices[-1], choices[0]))

    def share(self, axis: Axis, blocks: np.ndarray) -> np.ndarray:
        """Numbers of blocks, scaled: -1 where all that may be left out are, 1 where none is."""
        most = sum(options[0] > 0 for options in self._choices[axis])
        return _scaled(blocks, most - len(self.optional[axis]), most)

    def row(self, config: SubmodelConfig) -> np.ndarray:
        """The columns of one submodel."""
        h = self.hidden(config.hidden)
        shared, blocks, linear, square, present = [h, h * h], [], [], [], []
        shares, sizes = [], []
        for axis, name in WIDTH_AXES:
            widths = np.array(getattr(config, name))
            mean, within = (float(value) for value in self.total(axis, config.hidden, widths.sum()))
            shared += [within, within**2, h * within]
            single = np.array([float(self.layer(axis, layer, width)) for layer, width in enumerate(widths)])
            linear.append(single - mean)
            square.append(single**2 - mean**2)
            if optional := self.optional[axis]:
                share = float(self.share(axis, np.array(np.count_nonzero(widths))))
                blocks += [share, share**2, h * share]
                shares.append(share)
                sizes.append(within)
                present.append(np.where(widths[optional] > 0, 1.0, -1.0) - share)
        joint = [shares[0] * shares[1], sizes[0] * shares[1]] if len(shares) == 2 else []
        return np.concatenate([shared, blocks, joint, *linear, *square, *present])

    def weights(self, layer_weight: float) -> np.ndarray:
        """Prior sizes of the coefficients: what columns are multiplied by before ridge regression."""
        shared = [1, CURVATURE, 1, CURVATURE, CURVATURE, 1, CURVATURE, CURVATURE]
        optional = [len(layers) for layers in self.optional.values() if layers]
        return np.concatenate(
            [
                shared + [1, CURVATURE, CURVATURE] * len(optional) + [CURVATURE] * self.joint,
                np.repeat((layer_weight, CURVATURE * layer_weight), 2 * self.layers),
                np.full(sum(optional), layer_weight),
            ]
        )


class Surface:
    """An `Additive` score with one coefficient for each column of `Terms`."""

    def __init__(self, terms: Terms, coefficients: np.ndarray, constant: float) -> None:
        self.terms = terms
        self.coefficients = coefficients
        self.constant = constant
        optional = {axis: layers for axis, layers in terms.optional.items() if layers}
        sizes = [8, 3 * len(optional), terms.joint, 4 * terms.layers]
        _, blocks, self._joint, single, present = np.split(coefficients, np.cumsum(sizes))
        self._single = single.reshape(2, 2, terms.layers)  # linear or square, axis, layer
        self._blocks = dict(zip(optional, blocks.reshape(-1, 3), strict=True))
        self._present: dict[Axis, dict[int, float]] = {axis: {} for axis, _ in WIDTH_AXES}
        for (axis, layer), value in zip(
            ((a, i) for a, layers in optional.items() for i in layers), present, strict=True
        ):
            self._present[axis][layer] = float(value)

    def base(self, hidden: int) -> float:
        """See `Additive`."""
        h = self.terms.hidden(hidden)
        return float(self.constant + self.coefficients[0] * h + self.coefficients[1] * h * h)

    def total_scores(self, axis: Axis, hidden: int, blocks: np.ndarray, totals: np.ndarray) -> np.ndarray:
        """See `Additive`."""
        number = int(axis is Axis.FFN)
        linear, square, product = self.coefficients[2 + 3 * number : 5 + 3 * number]
        mean, within = self.terms.total(axis, hidden, totals)
        h = self.terms.hidden(hidden)
        own = within * (linear + square * within + product * h)
        if axis in self._blocks:
            share = self.terms.share(axis, blocks)
            linear, square, product = self._blocks[axis]
            own += share * (linear + square * share + product * h - sum(self._present[axis].values()))
        # layers count by how they differ from the total: that part of their terms is taken away here
        return own - mean * (self._single[0, number].sum() + self._single[1, number].sum() * mean)

    def joint_scores(self, hidden: int, blocks: np.ndarray, totals: np.ndarray, ffn_blocks: int) -> np.ndarray:
        """See `Additive`."""
        if not len(self._joint):
            return np.zeros(len(blocks))
        share = float(self.terms.share(Axis.FFN, np.array(ffn_blocks)))
        _, within = self.terms.total(Axis.ATTENTION, hidden, totals)
        both, size = self._joint
        found: np.ndarray = share * (both * self.terms.share(Axis.ATTENTION, blocks) + size * within)
        return found

    def layer_scores(self, axis: Axis, layer: int, widths: np.ndarray) -> np.ndarray:
        """See `Additive`."""
        linear, square = self._single[:, int(axis is Axis.FFN), layer]
        scaled = self.terms.layer(axis, layer, widths)
        return scaled * (linear + square * scaled) + self._present[axis].get(layer, 0.0) * np.where(widths > 0, 1, -1)


class FittedSurface(Surface):
    """A surface fitted to measured scores by ridge regression, and what its uncertainty follows from.

    `guide` are the coefficients of another surface, which may be followed in part. The penalty, and the weight of
    single layers, are those with the least leave-one-out error.
    """

    def __init__(
        self,
        terms: Terms,
        matrix: np.ndarray,
        scores: np.ndarray,
        guide: np.ndarray | None = None,
        layer_weights: Sequence[float] = LAYER_WEIGHTS,
    ) -> None:
        self._mean, self._matrix = matrix.mean(axis=0), matrix
        fits = []
        for each in layer_weights:
            directions = self._directions(terms.weights(each), guide)
            fits.append((RidgeCV(ALPHAS).fit(matrix @ directions, scores), directions, each))
        ridge, self._along, self.layer_weight = max(fits, key=lambda fit: fit[0].best_score_)
        self._noise = float(np.sqrt(-ridge.best_score_))
        self._covariance = _covariance(matrix @ self._along, ridge.alpha_)
        super().__init__(terms, self._along @ ridge.coef_, float(ridge.intercept_))

    def _directions(self, weights: np.ndarray, guide: np.ndarray | None) -> np.ndarray:
        """The directions in which coefficients are sought, as columns, each as long as its prior size."""
        directions = np.diag(weights)
        if guide is None or not (spread := float((self._matrix @ guide).std())):
            return directions
        return np.column_stack([directions, GUIDE_WEIGHT * guide / spread])

    def leverage(self, matrix: np.ndarray) -> np.ndarray:
        """How far each row lies from the fitted submodels, over all of its columns."""
        return self._distance(matrix - self._mean, self._design)

    def spread(self, matrix: np.ndarray) -> np.ndarray:
        """The standard deviation of a new measurement of each row about the surface, in units of its noise."""
        return np.sqrt(1 + self._distance((matrix - self._mean) @ self._along, self._covariance))

    def _distance(self, centred: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        found: np.ndarray = 1 / len(self._matrix) + np.einsum("ij,jk,ik->i", centred, covariance, centred)
        return found

    @cached_property
    def _design(self) -> np.ndarray:
        return _covariance(self._matrix, 1.0)

    def draw(self, rng: np.random.Generator) -> Surface:
        """A draw from the posterior of ridge regression: another surface consistent with the data."""
        factor = np.linalg.cholesky(self._covariance)
        moved = self._noise * (self._along @ (factor @ rng.standard_normal(len(factor))))
        return Surface(self.terms, self.coefficients + moved, self.constant - float(moved @ self._mean))


def _covariance(matrix: np.ndarray, penalty: float) -> np.ndarray:
    """Of the coefficients of ridge regression, at unit noise."""
    centred = matrix - matrix.mean(axis=0)
    return np.linalg.inv(centred.T @ centred + penalty * np.eye(matrix.shape[1]))


def _scaled(width: float | np.ndarray, narrowest: float, widest: float) -> np.ndarray:
    return (2 * np.asarray(width, dtype=float) - widest - narrowest) / (widest - narrowest or 1)
