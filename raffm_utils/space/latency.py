"""Latency models for budgets: affine in the total widths, fitted to a few measured submodels.

As for the other costs, latency is affine in the total attention width and the total FFN width for each hidden
width; here the three coefficients are themselves affine in the hidden width, so that a few measurements determine
all six numbers. None is negative: wider is never predicted to be faster.
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
        """Nanoseconds of one batch at a hidden width, as an affine function of the total widths."""
        base, attention, ffn = self._coefficients @ (1, hidden)
        return Affine(round(base), round(attention), round(ffn))

    def predict_ms(self, config: SubmodelConfig) -> float:
        """Milliseconds of one batch."""
        return self.affine(config.hidden)(sum(config.attention), sum(config.ffn)) / NS_PER_MS

    @cached_property
    def held_out_error(self) -> float:
        """Median relative error on the held-out submodels; NaN if there are none."""
        errors = [abs(self.predict_ms(config) / measured - 1) for config, measured in self.held_out]
        return float(np.median(errors)) if errors else float("nan")

    @cached_property
    def _coefficients(self) -> np.ndarray:
        """Nanoseconds: base, per attention width and per FFN width (rows), constant and per hidden width (columns).

        The fit minimises relative errors, so that small submodels are predicted as well as large ones.
        """
        from scipy.optimize import nnls

        widths = np.array([(1, sum(c.attention), sum(c.ffn)) for c, _ in self.measured], dtype=float)
        hidden = np.array([(1, c.hidden) for c, _ in self.measured], dtype=float)
        terms = (widths[:, :, None] * hidden[:, None, :]).reshape(len(widths), 6)
        terms /= NS_PER_MS * np.array([measured for _, measured in self.measured])[:, None]
        scale = np.linalg.norm(terms, axis=0)
        return (nnls(terms / scale, np.ones(len(terms)))[0] / scale).reshape(3, 2)
