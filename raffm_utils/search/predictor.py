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
NEAR = 0.1  # how much larger a submodel may be than one of about its size


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
    `kendall_tau_near` is over pairs whose numbers of parameters differ by at most 10 %, which fit into one window of
    +-5 %, each prediction less the mean that it was fitted to (nan without such pairs).
    `coverage` is the share of 90 % intervals that hold the measured accuracy. The arrays have one entry for each row.
    """

    rmse: float
    spread: float
    kendall_tau: float
    kendall_tau_near: float
    coverage: float
    measured: np.ndarray
    predicted: np.ndarray
    low: np.ndarray
    high: np.ndarray


class AccuracyPredictor:
    """Accuracy as a function of all widths of a submodel, fitted to a sweep on validation examples.

    The surface is one of the logarithm of the error, guided by a surface of the losses. Intervals are those of CV+
    (Barber et al. 2021, "Predictive inference with the jackknife+"): they rest on the errors of ten surfaces, each on
    submodels that it was not fitted to, beside how well the submodels that it was fitted to tell of each.

    Attributes:
        surface: the fitted score, which `search` maximises.
        submodels: how many submodels it was fitted to.
        examples: how many validation examples each of them was measured on.
    """

    def __init__(self, measured: "_Measured", terms: Terms, seed: int) -> None:
        guide = FittedSurface(terms, measured.matrix, measured.losses)
        self.surface = FittedSurface(terms, measured.matrix, measured.scores, guide.coefficients)
        self.submodels, self.examples = len(measured.matrix), measured.examples
        self._measured, self._seed = measured, seed
        self._widest_leverage = float(self.surface.leverage(measured.matrix).max())
        self._folds = np.empty(self.submodels, dtype=int)
        self._errors = np.empty(self.submodels)  # each in units of the spread where it was made
        self._parts: list[FittedSurface] = []
        for fold, (seen, unseen) in enumerate(_folds(self.submodels, seed)):
            rows, others = measured.some(seen), measured.some(unseen)
            guide_part = FittedSurface(terms, rows.matrix, rows.losses, layer_weights=[guide.layer_weight])
            part = FittedSurface(terms, rows.matrix, rows.scores, guide_part.coefficients, [self.surface.layer_weight])
            self._folds[unseen] = fold
            self._errors[unseen] = np.abs(others.scores - _scores(part, others.matrix)) / part.spread(others.matrix)
            self._parts.append(part)

    @classmethod
    def fit(cls, rows: Sequence[SweepRow], space: ElasticSpace, *, seed: int = 0) -> "AccuracyPredictor":
        """Fit to the rows of one sweep on the validation split; `seed` cuts them into folds.

        Raises `SweepError` for rows of any other split, of different weights or data, or fewer than 30 submodels.
        """
        unique = list({row.config: row for row in rows}.values())
        _check(unique, space)
        terms = Terms(space, [row.config for row in unique])
        return cls(_Measured.of(unique, terms), terms, seed)

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
        rows, taus, relative = self._measured, [], np.empty(self.submodels)
        measured = rows.accuracies
        for seen, unseen in _folds(self.submodels, self._seed + 1):
            part = AccuracyPredictor(rows.some(seen), self.surface.terms, self._seed)
            found[:, unseen] = part._intervals(rows.matrix[unseen])
            taus.append(kendalltau(predicted[unseen], measured[unseen]).statistic)
            relative[unseen] = predicted[unseen] - measured[seen].mean()
        return HeldOut(
            rmse=float(np.sqrt(np.mean((predicted - measured) ** 2))),
            spread=float(measured.std()),
            kendall_tau=float(np.nan_to_num(taus).mean()),
            kendall_tau_near=_tau_near(relative, measured, rows.sizes),
            coverage=float(np.mean((low <= measured) & (measured <= high))),
            measured=measured,
            predicted=predicted,
            low=low,
            high=high,
        )

    def _intervals(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(predicted, low, high) of each row."""
        centres = np.stack([_scores(part, matrix) for part in self._parts], axis=1)[:, self._folds]
        errors = np.stack([part.spread(matrix) for part in self._parts], axis=1)[:, self._folds] * self._errors
        outside = int((1 - CONFIDENCE) * (self.submodels + 1))
        low = np.sort(centres - errors, axis=1)[:, outside - 1]
        high = np.sort(centres + errors, axis=1)[:, -outside]
        score = _scores(self.surface, matrix)
        low, high = np.minimum(low, score), np.maximum(high, score)
        accuracy, low, high = (np.clip(_accuracy(each, self.examples), 0, 1) for each in (score, low, high))
        return accuracy, low, high

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
            return "outside the data: no measured submodel has a mix of widths as far from those of the others"
        return ""


@dataclass(frozen=True, eq=False)
class _Measured:
    """What a predictor is fitted to, with an entry for each submodel."""

    examples: int
    matrix: np.ndarray
    accuracies: np.ndarray
    losses: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[SweepRow], terms: Terms) -> "_Measured":
        known = all(row.encoder_parameters for row in rows)
        sizes = [row.encoder_parameters if known else row.parameters for row in rows]
        columns = ([row.accuracy for row in rows], [row.loss for row in rows], sizes)
        matrix = np.stack([terms.row(row.config) for row in rows])
        return cls(rows[0].examples, matrix, *(np.array(column, dtype=float) for column in columns))

    def some(self, indices: np.ndarray) -> "_Measured":
        """Some of them."""
        arrays = (self.matrix, self.accuracies, self.losses, self.sizes)
        return _Measured(self.examples, *(array[indices] for array in arrays))

    @property
    def scores(self) -> np.ndarray:
        """What the surface is one of: the errors fall by factors, not by points. One error more keeps it finite."""
        found: np.ndarray = -np.log(1 - self.accuracies + 1 / self.examples)
        return found


def _accuracy(scores: np.ndarray, examples: int) -> np.ndarray:
    """Inverse of `_Measured.scores`."""
    return 1 + 1 / examples - np.exp(-scores)


def _tau_near(predicted: np.ndarray, measured: np.ndarray, sizes: np.ndarray) -> float:
    """Kendall's tau over the pairs of nearly equal size, without those measured alike."""
    one, other = np.triu_indices(len(sizes), 1)
    near = np.abs(np.log(sizes[one] / sizes[other])) <= np.log(1 + NEAR)
    signs = [np.sign(values[one[near]] - values[other[near]]) for values in (predicted, measured)]
    differs = signs[1] != 0
    return float((signs[0] * signs[1])[differs].mean()) if differs.any() else float("nan")


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
