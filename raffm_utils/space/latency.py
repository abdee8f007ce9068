"""Latency models for budgets: affine in what the other costs see, fitted to a few measured submodels.

For each hidden width, latency is affine in the total widths and in the numbers of blocks present, as the other costs
are: a block costs its norm and its launches, however narrow it is. The coefficients are themselves affine in the
hidden width, so that a few measurements determine all of them. None is negative: more is never predicted to be faster.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .axes import SubmodelConfig
from .budget import NS_PER_MS, Affine


class Timed(NamedTuple):
    """A submodel and the median milliseconds that one batch took."""

    config: SubmodelConfig
    measured_ms: float


@dataclass(frozen=True)
class AffineLatency:
    """Predicts the milliseconds of one forward pass of `batch_size` examples on `threads` threads.

    `tokens` is the length of every text, None for images. `measured` are the submodels that it was fitted to,
    `held_out` those that it was not.
    """

    measured: tuple[Timed, ...]
    held_out: tuple[Timed, ...]
    batch_size: int = 1
    threads: int = 1
    tokens: int | None = None

    def affine(self, hidden: int) -> Affine:
        """Nanoseconds of one batch at a hidden width, as an affine function of `Totals`."""
        return Affine(*(round(value) for value in self._coefficients @ (1, hidden)))

    def predict_ms(self, config: SubmodelConfig) -> float:
        """Milliseconds of one batch."""
        return self.affine(config.hidden)(config.totals) / NS_PER_MS

    @cached_property
    def held_out_error(self) -> float:
        """Median relative error on the held-out submodels; NaN if there are none."""
        errors = [abs(self.predict_ms(config) / measured - 1) for config, measured in self.held_out]
        return float(np.median(errors)) if errors else float("nan")

    @cached_property
    def _coefficients(self) -> np.ndarray:
        """Nanoseconds as `Affine` names them (rows), constant and per hidden width (columns).

        The fit minimises relative errors, so that small submodels are predicted as well as large ones. What was the
        same in all measurements (without blocks left out: their number) cannot be told from the constant: it gets 0.
        """
        from scipy.optimize import nnls

        totals = np.array([(1, *c.totals) for c, _ in self.measured], dtype=float)
        hidden = np.array([(1, c.hidden) for c, _ in self.measured], dtype=float)
        told = np.flatnonzero((totals != totals[0]).any(axis=0) | (np.arange(totals.shape[1]) == 0))
        terms = (totals[:, told, None] * hidden[:, None, :]).reshape(len(totals), -1)
        terms /= NS_PER_MS * np.array([measured for _, measured in self.measured])[:, None]
        scale = np.linalg.norm(terms, axis=0)
        found = np.zeros((totals.shape[1], 2))
        found[told] = (nnls(terms / scale, np.ones(len(terms)))[0] / scale).reshape(-1, 2)
        return found
