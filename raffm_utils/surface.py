"""Accuracy as a sum of terms that dynamic programming can maximise exactly, fitted by ridge regression.

At a given hidden width the sum has one term for the total attention width, one for the total FFN width, and one
for each width of each layer. The totals carry curvature and change with the hidden width; the layers tell apart
submodels of equal totals.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from .families import Axis
from .space import ElasticSpace, SubmodelConfig

ALPHAS = np.logspace(-1, 5, 31)
LAYER_WEIGHTS = (0.0, 0.25, 0.5, 1.0)  # how far single layers may differ from what their total says


class Additive(Protocol):
    """A score of submodels: `base + total_scores of both axes + layer_scores of both axes in every layer`."""

    def base(self, hidden: int) -> float:
        """The term of the hidden width alone."""

    def total_scores(self, axis: Axis, hidden: int, totals: np.ndarray) -> np.ndarray:
        """The term of each total width (attention or FFN) at one hidden width."""

    def layer_scores(self, axis: Axis, layer: int, widths: np.ndarray) -> np.ndarray:
        """The term of each width of one layer, the same at every hidden width."""


class Terms:
    """How submodels of a space are described: by widths scaled to -1 (narrowest) to 1 (widest), and products of them.

    Columns: hidden `h`, `h**2`; total attention `a`, `a**2`, `h a`; total FFN `f`, `f**2`, `h f`; every layer's
    attention, every layer's FFN; their squares.
    """

    def __init__(self, space: ElasticSpace) -> None:
        self.layers = len(space.attention)
        self._choices = {Axis.ATTENTION: space.attention, Axis.FFN: space.ffn}
        self._hidden = space.hidden

    def hidden(self, width: float | np.ndarray) -> np.ndarray:
        """A hidden width, scaled."""
        return _scaled(width, self._hidden[-1], self._hidden[0])

    def total(self, axis: Axis, total: np.ndarray) -> np.ndarray:
        """Total widths, scaled."""
        choices = self._choices[axis]
        return _scaled(total, sum(c[-1] for c in choices), sum(c[0] for c in choices))

    def layer(self, axis: Axis, layer: int, widths: np.ndarray) -> np.ndarray:
        """Widths of one layer, scaled."""
        choices = self._choices[axis][layer]
        return _scaled(widths, choices[-1], choices[0])

    def matrix(self, configs: Sequence[SubmodelConfig]) -> np.ndarray:
        """One row for each submodel."""
        hidden = self.hidden(np.array([config.hidden for config in configs]))
        columns, single = [hidden, hidden**2], []
        for axis, name in ((Axis.ATTENTION, "attention"), (Axis.FFN, "ffn")):
            widths = np.array([getattr(config, name) for config in configs])
            total = self.total(axis, widths.sum(axis=1))
            columns += [total, total**2, hidden * total]
            single += [self.layer(axis, layer, widths[:, layer]) for layer in range(self.layers)]
        return np.column_stack([*columns, *single, *(column**2 for column in single)])

    def weights(self, layer_weight: float) -> np.ndarray:
        """What columns are multiplied by: the less, the more ridge regression shrinks their coefficients."""
        shares = np.repeat((1.0, layer_weight, layer_weight / 2), (8, 2 * self.layers, 2 * self.layers))
        return shares


class Surface:
    """An `Additive` score with one coefficient for each column of `Terms.matrix`."""

    def __init__(self, terms: Terms, coefficients: np.ndarray, constant: float) -> None:
        self.terms = terms
        self.coefficients = coefficients
        self.constant = constant

    def base(self, hidden: int) -> float:
        """See `Additive`."""
        width = self.terms.hidden(hidden)
        return float(self.constant + self.coefficients[0] * width + self.coefficients[1] * width**2)

    def total_scores(self, axis: Axis, hidden: int, totals: np.ndarray) -> np.ndarray:
        """See `Additive`."""
        start = 2 if axis is Axis.ATTENTION else 5
        linear, square, product = self.coefficients[start : start + 3]
        scaled = self.terms.total(axis, totals)
        return scaled * (linear + square * scaled + product * self.terms.hidden(hidden))

    def layer_scores(self, axis: Axis, layer: int, widths: np.ndarray) -> np.ndarray:
        """See `Additive`."""
        column = 8 + layer + (0 if axis is Axis.ATTENTION else self.terms.layers)
        linear, square = self.coefficients[column], self.coefficients[column + 2 * self.terms.layers]
        scaled = self.terms.layer(axis, layer, widths)
        return scaled * (linear + square * scaled)


class FittedSurface(Surface):
    """A surface fitted to measured accuracies by ridge regression, with what is needed to say how sure it is.

    The penalty, and how much layers may differ, are those with the least leave-one-out error.
    """

    def __init__(self, terms: Terms, matrix: np.ndarray, accuracies: np.ndarray) -> None:
        self._scaler = StandardScaler().fit(matrix)
        standard = self._scaler.transform(matrix)
        fits = [
            (RidgeCV(ALPHAS).fit(standard * weights, accuracies), weights)
            for weights in map(terms.weights, LAYER_WEIGHTS)
        ]
        ridge, weights = max(fits, key=lambda fit: fit[0].best_score_)
        self._ridge, self._scale = ridge, weights / self._scaler.scale_
        standard = standard * weights
        self._inverse = np.linalg.inv(standard.T @ standard + ridge.alpha_ * np.eye(len(weights)))
        self._rows = len(matrix)
        super().__init__(terms, *self._unscaled(ridge.coef_))

    def leverage(self, matrix: np.ndarray) -> np.ndarray:
        """How far each row lies from what was fitted: the share of its prediction that rests on its own position."""
        columns = (matrix - self._scaler.mean_) * self._scale
        return 1 / self._rows + np.einsum("ij,jk,ik->i", columns, self._inverse, columns)

    def draw(self, rng: np.random.Generator) -> Surface:
        """Another surface that the same data might have given: a draw from the posterior of ridge regression."""
        noise = np.sqrt(-self._ridge.best_score_)
        factor = np.linalg.cholesky(self._inverse)
        coefficients = self._ridge.coef_ + noise * factor @ rng.standard_normal(len(factor))
        return Surface(self.terms, *self._unscaled(coefficients))

    def _unscaled(self, coefficients: np.ndarray) -> tuple[np.ndarray, float]:
        plain = coefficients * self._scale
        return plain, float(self._ridge.intercept_ - plain @ self._scaler.mean_)


def _scaled(width: float | np.ndarray, narrowest: int, widest: int) -> np.ndarray:
    return (2 * np.asarray(width, dtype=float) - widest - narrowest) / (widest - narrowest or 1)
