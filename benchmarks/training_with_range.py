"""What the recipe of the image checkpoint owes to what it starts from, and what it costs to train in a federation.

Three runs with equal computing, by `count_run`, all shorter than the recipe: as the recipe says; from the foundation
model instead of what the first part gave; and by one client with all data and the full network, which is central
training with the same losses, steps and optimizer. Rates fall to 0 in each. Measured at five sizes on the first
validation examples, so that test stays unseen; differences to the recipe are taken pair by pair. Runs lie in
`runs/training_with_range` and are resumable. Writes `benchmarks/training_with_range.json`.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raffm_utils import Supernet, compare, evaluate, load_split
from raffm_utils.federated import RECIPES, Named, Recipe, align, count_run, run, start
from raffm_utils.files import RUNS_FOLDER
from raffm_utils.space import near_share
from raffm_utils.writing import write_atomically

NAME = "vit-small-fashion-mnist-large-budget"
RESULTS = Path(__file__).with_suffix(".json")
SHARES = (0.5, 0.2, 0.05)


def shorter(recipe: Recipe, rounds: int) -> Recipe:
    """The recipe with so many rounds, in which the rate still falls to 0."""
    return replace(recipe, rounds=rounds, cosine_rounds=rounds)


def central(recipe: Recipe) -> Recipe:
    """One client that has all data and trains the full network, with its students, in every round."""
    return replace(recipe, clients=1, participants=1, one_strong=False, submodels=False)


def macs(supernet: Supernet, recipe: Recipe, labels: torch.Tensor) -> int:
    """What all clients compute in a run."""
    return sum(cost.macs for costs in count_run(supernet, recipe, labels) for cost in costs)


def rounds_for(total: int, supernet: Supernet, recipe: Recipe, labels: torch.Tensor) -> int:
    """How many rounds of a recipe come nearest to a total of MACs."""
    sampled = 40
    return max(1, round(total / (macs(supernet, shorter(recipe, sampled), labels) / sampled)))


def main() -> None:
    """Train, measure, print a table, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=120, help="of the recipe (120)")
    parser.add_argument("--examples", type=int, default=2500, help="of validation (2500)")
    arguments = parser.parse_args()
    named = RECIPES[NAME]
    _, processor = start(named)
    train, validation = (load_split(named.dataset, split, processor=processor) for split in ("train", "validation"))
    measured_on = validation.subset(range(arguments.examples))

    def first_part() -> Supernet:
        return start(named)[0]

    def foundation() -> Supernet:
        alone: Named = replace(named, after=None)
        supernet, _ = start(alone)
        align(alone, supernet, train, validation)
        return supernet

    whole = shorter(named.recipe, arguments.rounds)
    total = macs(first_part(), whole, train.labels)
    alike = shorter(central(named.recipe), rounds_for(total, first_part(), central(named.recipe), train.labels))
    runs: dict[str, tuple[Callable[[], Supernet], Recipe]] = {
        "as the recipe says": (first_part, whole),
        "from the foundation model": (foundation, whole),
        "central": (first_part, alike),
    }
    results: dict[str, Any] = {}
    answers: dict[str, dict[str, Any]] = {}
    for name, (begin, recipe) in runs.items():
        supernet, seconds = begin(), time.perf_counter()
        folder = RUNS_FOLDER / "training_with_range" / f"{name.replace(' ', '-')}-{recipe.rounds}"
        run(supernet, train, validation.subset(range(500)), recipe, folder, every=20)
        space = supernet.space
        sizes = {f"{share:.0%}": near_share(space, share, np.random.default_rng(0)) for share in SHARES}
        sizes = {"full": space.largest(), **sizes, "smallest": space.smallest()}
        answers[name] = {size: evaluate(supernet.extract(config), measured_on) for size, config in sizes.items()}
        results[name] = {
            "rounds": recipe.rounds,
            "macs": macs(supernet, recipe, train.labels),
            "seconds": round(time.perf_counter() - seconds),
            "accuracy": {size: [each.accuracy, each.low, each.high] for size, each in answers[name].items()},
        }
        if name != "as the recipe says":
            others = answers["as the recipe says"]
            results[name]["less_the_recipe"] = {
                size: [(found := compare(each, others[size])).difference, found.low, found.high]
                for size, each in answers[name].items()
            }
        write_atomically(RESULTS, json.dumps({"examples": arguments.examples, "runs": results}, indent=1) + "\n")
        shown = " | ".join(f"{100 * each.accuracy:.1f}" for each in answers[name].values())
        print(f"| {name} | {recipe.rounds} | {results[name]['macs'] / 1e12:,.1f} T | {shown} |", flush=True)


if __name__ == "__main__":
    main()
