"""The ways to choose the submodel that the explorer shows."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..space import DEVICE_CAPS, Budget, Cost, ElasticSpace, SubmodelConfig

if TYPE_CHECKING:
    from ..search import AccuracyPredictor


BEST, RANDOM, LARGEST = "best predicted", "random", "largest that fits"
SHORTLIST = 8  # how many of those that may be the best can be leafed through


class Chosen(NamedTuple):
    """A submodel, and its place, from 0, among `of` candidates for the best one; 0 of 1 where there are none."""

    config: SubmodelConfig
    place: int = 0
    of: int = 1


def policies(predictor: "AccuracyPredictor | None") -> tuple[str, ...]:
    """The ways to choose a submodel, the default first; the best predicted needs a predictor."""
    return (RANDOM, LARGEST) if predictor is None else (BEST, RANDOM, LARGEST)


def shown_submodel(
    policy: str,
    space: ElasticSpace,
    budget: Budget,
    predictor: "AccuracyPredictor | None",
    *,
    draws: int,
    seed: int,
) -> Chosen:
    """The submodel that `policy` selects after `draws` requests for another; raises `InfeasibleBudget`.

    The best predicted is followed by others that may be as good; there is only one largest, in parameters.
    """
    if policy == LARGEST:
        from ..search import largest_submodel

        return Chosen(largest_submodel(space, budget))
    rng = np.random.default_rng([seed, draws])
    if policy == RANDOM:
        return Chosen(space.sample(budget, rng))
    from ..search import best_submodel, best_submodels

    assert predictor is not None, "policies() offers the best predicted only with a predictor"
    if not draws:
        return Chosen(best_submodel(space, predictor, budget))
    found = best_submodels(space, predictor, budget, SHORTLIST, np.random.default_rng(seed))
    return Chosen(found[draws % len(found)], draws % len(found), len(found))


def device_budgets(full: Cost) -> dict[str, Budget]:
    """What each device of the published system settings can hold, as a share of the full network's parameters."""
    return {device: Budget(max_parameters=share * full.parameters) for device, share in DEVICE_CAPS.items()}
