"""Predicted accuracy, with an interval, of submodels that were never measured."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import SweepError
from ..evaluation import Interval, SweepRow
from ..space import Axis, ElasticSpace, Rng, SubmodelConfig, generator
from .surface import WIDTH_AXES, FittedSurface, Surface, Terms

CONFIDENCE = 0.9
FOLDS = 10
MIN_ROWS = 30


@dataclass(frozen=True)
class Predicted(Interval):
    """A predicted accuracy with its 90 % prediction interval, all three from 0 to 1.

    The interval is for a measurement of the submodel on the same validation examples. `note` warns when the
    submodel lies outside the data that the predictor was fitted to, where neither is reliable; else it is empty.
    """

    note: str = ""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """How well submodels are predicted by a predictor that has not seen them (10-fold cross-validation).

    `rmse` is in accuracy from 0 to 1, to be compared with `spread`, the error of always predicting the mean.
    `kendall_tau` is the mean over the folds: pooled, even a constant prediction would seem to rank in reverse.
    `coverage` is the share of 90 % intervals that hold the measured accuracy. The arrays have one entry for each row.
    """

    rmse: float
    spread: float
    kendall_tau: float
    coverage: float
    measured: np.ndarray
    predicted: np.ndarray
    low: np.ndarray
    high: np.ndarray


class AccuracyPredictor:
    """Accuracy as a function of all widths of a submodel, fitted to a sweep on validation examples.

    Intervals are those of CV+ (Barber et al. 2021, "Predictive inference with the jackknife+"): they rest on the
    errors of ten surfaces, each on submodels that it was not fitted to.

    Attributes:
        surface: the fitted score, which `search` maximises.
        submodels: how many submodels it was fitted to.
        examples: how many validation examples each of them was measured on.
    """

    def __init__(self, matrix: np.ndarray, accuracies: np.ndarray, terms: Terms, seed: int) -> None:
        self.surface = FittedSurface(terms, matrix, accuracies)
        self.submodels, self.examples = len(matrix), 0
        self._matrix, self._accuracies, self._seed = matrix, accuracies, seed
        self._widest_leverage = float(self.surface.leverage(matrix).max())
        self._folds = np.empty(len(matrix), dtype=int)
        self._errors = np.empty(len(matrix))
        parts: list[Surface] = []
        for fold, (seen, unseen) in enumerate(_folds(len(matrix), seed)):
            part = FittedSurface(terms, matrix[seen], accuracies[seen], [self.surface.layer_weight])
            self._folds[unseen] = fold
            self._errors[unseen] = np.abs(accuracies[unseen] - _scores(part, matrix[unseen]))
            parts.append(part)
        self._coefficients = np.stack([part.coefficients for part in parts])
        self._constants = np.array([part.constant for part in parts])

    @classmethod
    def fit(cls, rows: Sequence[SweepRow], space: ElasticSpace, *, seed: int = 0) -> "AccuracyPredictor":
        """Fit to the rows of one sweep on the validation split; `seed` cuts them into folds.

        Raises `SweepError` for rows of any other split, of different weights or data, or fewer than 30 submodels.
        """
        unique = list({row.config: row for row in rows}.values())
        _check(unique, space)
        terms = Terms(space, [row.config for row in unique])
        matrix = np.stack([terms.row(row.config) for row in unique])
        predictor = cls(matrix, np.array([row.accuracy for row in unique]), terms, seed)
        predictor.examples = unique[0].examples
        return predictor

    def predict(self, config: SubmodelConfig) -> Predicted:
        """Predict the accuracy that a submodel would have on the validation examples."""
        matrix = self.surface.terms.row(config)[None]
        accuracy, low, high = (float(values[0]) for values in self._intervals(matrix))
        return Predicted(accuracy, low, high, self._note(config, float(self.surface.leverage(matrix)[0])))

    def plausible(self, rng: Rng) -> Surface:
        """An alternative score, consistent with the same data, to find submodels worth measuring."""
        return self.surface.draw(generator(rng))

    @cached_property
    def held_out(self) -> HeldOut:
        """Cross-validate the predictor and its intervals: each tenth is predicted from the rest (a few seconds)."""
        from scipy.stats import kendalltau

        predicted, low, high = found = np.empty((3, self.submodels))
        measured, taus = self._accuracies, []
        for seen, unseen in _folds(self.submodels, self._seed + 1):
            part = AccuracyPredictor(self._matrix[seen], measured[seen], self.surface.terms, self._seed)
            found[:, unseen] = part._intervals(self._matrix[unseen])
            taus.append(kendalltau(predicted[unseen], measured[unseen]).statistic)
        return HeldOut(
            rmse=float(np.sqrt(np.mean((predicted - measured) ** 2))),
            spread=float(measured.std()),
            kendall_tau=float(np.nan_to_num(taus).mean()),
            coverage=float(np.mean((low <= measured) & (measured <= high))),
            measured=measured,
            predicted=predicted,
            low=low,
            high=high,
        )

    def _intervals(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(predicted, low, high) of each row."""
        centres = (matrix @ self._coefficients.T + self._constants)[:, self._folds]
        outside = int((1 - CONFIDENCE) * (self.submodels + 1))
        low = np.sort(centres - self._errors, axis=1)[:, outside - 1]
        high = np.sort(centres + self._errors, axis=1)[:, -outside]
        accuracy = _scores(self.surface, matrix)
        low, high = np.minimum(low, accuracy), np.maximum(high, accuracy)
        return np.clip(accuracy, 0, 1), np.clip(low, 0, 1), np.clip(high, 0, 1)

    def _note(self, config: SubmodelConfig, leverage: float) -> str:
        terms = self.surface.terms
        if not terms.narrowest <= config.hidden <= terms.widest:
            return (
                f"outside the data: hidden width {config.hidden:,}, but {terms.narrowest:,} to {terms.widest:,} were "
                "measured"
            )
        for axis, name in WIDTH_AXES:
            total, (least, most) = sum(getattr(config, name)), terms.edges(axis, config.hidden)
            if not least - 0.5 <= total <= most + 0.5:  # widths are whole; the edges of the data need not be
                title = "FFN" if axis is Axis.FFN else name
                return (
                    f"outside the data: total {title} width {total:,}, but {least:,.0f} to {most:,.0f} were measured "
                    f"at about hidden width {config.hidden:,}"
                )
        if leverage > self._widest_leverage:
            return (
                "outside the data: its mix of widths is further from the measured ones than any of them "
                f"(leverage {leverage:.2f}, theirs up to {self._widest_leverage:.2f})"
            )
        return ""


def _scores(surface: Surface, matrix: np.ndarray) -> np.ndarray:
    return matrix @ surface.coefficients + surface.constant


def _folds(rows: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import KFold

    return KFold(FOLDS, shuffle=True, random_state=seed).split(np.empty(rows))


def _check(rows: Sequence[SweepRow], space: ElasticSpace) -> None:
    if others := sorted({row.split for row in rows} - {"validation"}):
        raise SweepError(
            f"rows of the {others[0]} split cannot choose a submodel: what is chosen by them looks better on them than "
            "it is; fit to a sweep on load_split(..., 'validation')"
        )
    if len(rows) < MIN_ROWS:
        raise SweepError(f"{len(rows)} submodels are too few to predict others from: sweep at least {MIN_ROWS}")
    if len({(row.fingerprint, row.data_fingerprint) for row in rows}) > 1:
        raise SweepError(
            "these rows are of different weights or different examples: keep those with one fingerprint and one "
            "data_fingerprint"
        )
    layers = len(space.attention)
    if wrong := [row for row in rows if len(row.config.attention) != layers]:
        raise SweepError(
            f"a row has {len(wrong[0].config.attention)} layers, but the space has {layers}: give the rows of this "
            "checkpoint"
        )
