"""Finding submodels: predicted accuracy, exact search inside a budget, successive halving, whole fleets.

All choices are made on validation examples.
"""

from .exact import (
    FrontPoint,
    best_submodel,
    best_submodels,
    highest_between,
    largest_submodel,
    pareto_front,
    promising_submodels,
)
from .fleet import FleetPlan, plan_fleet, with_quota
from .halving import choose
from .predictor import MIN_ROWS, AccuracyPredictor, HeldOut, Predicted
from .surface import FittedSurface, Surface, Terms
