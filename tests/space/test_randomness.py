"""Wherever something is drawn, a seed does as well as a generator, and anything else is refused by name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import make_supernet, some_configs
from helpers.export import split_for
from helpers.search import Tables, make_space

from raffm_utils.deployment import deploy
from raffm_utils.errors import ElasticSpaceError
from raffm_utils.evaluation import LatencyModel
from raffm_utils.search import best_submodels, choose
from raffm_utils.space import Budget, near_share, near_the_limit, sample_between, spread_over_size, spread_over_widths
from raffm_utils.widgets import BudgetExplorer

SPACE, SUPERNET = make_space(), make_supernet("vit")
DRAWS: dict[str, Callable[[Any], Any]] = {
    "sample": lambda rng: SPACE.sample(None, rng),
    "sample_between": lambda rng: sample_between(SPACE, *SPACE.reach("parameters"), rng),
    "spread_over_size": lambda rng: spread_over_size(SPACE, 5, rng),
    "near_share": lambda rng: near_share(SPACE, 0.9, rng),
    "near_the_limit": lambda rng: near_the_limit(
        SPACE, Budget(max_parameters=SPACE.reach("parameters")[1] - 1), 5, rng
    ),
    "spread_over_widths": lambda rng: spread_over_widths(SPACE, 5, rng),
    "best_submodels": lambda rng: best_submodels(SPACE, Tables(3), None, 6, rng),
    "choose": lambda rng: (
        choose(SUPERNET, some_configs(SUPERNET, 4), split_for(SUPERNET), rng=rng, progress=False).config
    ),
}
REFUSED = {
    **DRAWS,
    "deploy": lambda rng: deploy(SUPERNET, Budget(), "never", rng=rng),
    "explorer": lambda rng: BudgetExplorer(SUPERNET, rng=rng),
    "LatencyModel.fit": lambda rng: LatencyModel.fit(SUPERNET, rng=rng, cache=False),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_seed_draws_what_its_generator_draws(draw):
    wanted = draw(np.random.default_rng(7))
    assert draw(7) == draw(np.int64(7)) == wanted


@pytest.mark.parametrize("draw", [DRAWS[name] for name in ("near_the_limit", "spread_over_size", "best_submodels")])
def test_several_draws_with_a_seed_are_not_the_same_draw_again(draw):
    assert len(set(draw(7))) > 2


@pytest.mark.parametrize("draw", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("wrong", ["seven", 7.0, -1, np.random.RandomState(7)], ids=lambda value: type(value).__name__)
def test_what_cannot_be_drawn_with_is_refused_by_name(draw, wrong):
    with pytest.raises(ElasticSpaceError, match=r"rng=.*: give numpy\.random\.default_rng\(seed\), or the seed alone"):
        draw(wrong)


def test_a_draw_that_must_be_told_its_randomness_says_so():
    with pytest.raises(ElasticSpaceError, match="rng=None: give numpy"):
        SPACE.sample(None, None)
