"""Which submodel the budget explorer shows of all that fit, and the budgets of known devices."""

from typing import TYPE_CHECKING

import numpy as np

from .budget import Budget
from .cost import Cost
from .participation import DEVICE_CAPS
from .space import ElasticSpace, SubmodelConfig

if TYPE_CHECKING:
    from .predictor import AccuracyPredictor

BEST, RANDOM, LARGEST = "best predicted", "random", "largest that fits"
SHORTLIST = 8  # how many of those that may be the best can be leafed through


def policies(predictor: "AccuracyPredictor | None") -> tuple[str, ...]:
    """The ways to draw, the one to begin with first; only a predictor knows the best."""
    return (RANDOM, LARGEST) if predictor is None else (BEST, RANDOM, LARGEST)


def shown_submodel(
    policy: str,
    space: ElasticSpace,
    budget: Budget,
    predictor: "AccuracyPredictor | None",
    *,
    draws: int,
    seed: int,
) -> SubmodelConfig:
    """The submodel that `policy` shows after `draws` requests for another; raises `InfeasibleBudget`.

    The best predicted is followed by others that may be as good; the largest, in parameters, by none.
    """
    if policy == LARGEST:
        from .search import largest_submodel

        return largest_submodel(space, budget, "parameters", budget.tokens)
    rng = np.random.default_rng([seed, draws])
    if policy == RANDOM:
        return space.sample(budget, rng)
    from .search import best_submodel, best_submodels

    assert predictor is not None, "policies() offers the best predicted only with a predictor"
    if not draws:
        return best_submodel(space, predictor, budget)
    found = best_submodels(space, predictor, budget, SHORTLIST, np.random.default_rng(seed))
    return found[draws % len(found)]


def device_budgets(full: Cost) -> dict[str, Budget]:
    """What each device of the published system settings can hold, as a share of the full network's parameters."""
    return {device: Budget(max_parameters=share * full.parameters) for device, share in DEVICE_CAPS.items()}
