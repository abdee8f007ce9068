"""What heterogeneity costs: equal federations whose clients are large, small, both, or all train the full network.

The recipe of the bundled image checkpoint and its start, for a few rounds in which the rate falls to 0: 100 clients of
whom 4 take part in a round, with IID data or with labels skewed by Dirichlet(0.5). For each of the eight: accuracy of
the full network, of random submodels of half and a fifth of its parameters (the same in all), and of the smallest, on
all 10,000 test images, and its paired difference to the federation whose clients all train the full network; bytes
sent and MACs of the clients, counted exactly. Nothing is chosen. Prints a table, and writes
`benchmarks/heterogeneity.json`; a run that was stopped goes on.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from raffm_utils import Supernet, compare, evaluate, load_split
from raffm_utils.federated import RECIPES, Recipe, count_run, run, start
from raffm_utils.files import RUNS_FOLDER
from raffm_utils.space import near_share
from raffm_utils.writing import write_atomically

RESULTS, RUNS = Path(__file__).with_suffix(".json"), RUNS_FOLDER / "heterogeneity"
NAMED = RECIPES["vit-small-fashion-mnist-large-budget"]
CLIENTS: dict[str, dict[str, Any]] = {
    "large": {"setting": "large", "one_strong": False},
    "small": {"setting": "small", "one_strong": False, "full_participant": True},
    "large and small": {},
    "all full": {"submodels": False, "one_strong": False},
}
SKEWS = {"IID": None, "Dirichlet(0.5)": 0.5}
SHARES = {"half": 0.5, "fifth": 0.2}


def recipe_of(rounds: int, clients: str, skew: str) -> Recipe:
    """Equal rounds for all; only the size of the clients' networks and the skew differ."""
    common = replace(NAMED.recipe, rounds=rounds, cosine_rounds=rounds, participants=4)
    return replace(common, dirichlet=SKEWS[skew], **CLIENTS[clients])


def measure(supernet: Supernet, recipe: Recipe, folder: Path, test: Any, train: Any, validation: Any) -> dict[str, Any]:
    """Run one federation; its accuracies and costs."""
    begin = time.perf_counter()
    results = run(supernet, train, validation, recipe, folder, every=4)
    seconds = round(time.perf_counter() - begin)
    counted = count_run(supernet, recipe, train.labels)
    clients = [cost for costs in counted for cost in costs]
    accuracy = {}
    space, rng = supernet.space, np.random.default_rng(0)
    drawn = {size: near_share(space, share, rng) for size, share in SHARES.items()}
    for size, config in {"full": space.largest(), **drawn, "smallest": space.smallest()}.items():
        result = asdict(evaluate(supernet.extract(config), test))
        del result["examples_per_second"]
        accuracy[size] = {"parameters": supernet.cost(config).parameters, **result}
    return {
        "recipe": asdict(recipe),
        "accuracy": accuracy,
        "bytes_down": [sum(cost.bytes_down for cost in costs) for costs in counted],
        "bytes_up": [sum(cost.bytes_up for cost in costs) for costs in counted],
        "client_macs": sorted(cost.macs for cost in clients),
        "loss": [result.loss for result in results],
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    supernet, processor = start(NAMED)
    train, validation, test = (
        load_split(NAMED.dataset, split, processor=processor) for split in ("train", "validation", "test")
    )
    begin = {name: tensor.clone() for name, tensor in supernet.model.state_dict().items()}
    recipes = {f"{clients}, {skew}": recipe_of(options.rounds, clients, skew) for skew in SKEWS for clients in CLIENTS}
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results = {n: stored[n] for n, recipe in recipes.items() if stored.get(n, {}).get("recipe") == asdict(recipe)}
    for name in [name for name in recipes if name not in results]:
        supernet.model.load_state_dict(begin)
        folder = RUNS / f"{name}-{options.rounds}".replace(", ", "-").replace(" ", "-")
        results[name] = measure(supernet, recipes[name], folder, test, train, validation.subset(range(300)))
        results = {each: results[each] for each in recipes if each in results}
        write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
    for name, result in results.items():
        print(f"| {name} | {' | '.join(texts(result, results['all full,' + name.partition(',')[2]]))} |")


def texts(result: dict[str, Any], all_full: dict[str, Any]) -> Iterator[str]:
    """The cells of a table: accuracies and how they differ, pair by pair, from those of `all_full`; costs."""
    for size in result["accuracy"]:
        own, other = (SimpleNamespace(**each["accuracy"][size]) for each in (result, all_full))
        text = f"{own.accuracy:.1%} ({100 * own.low:.1f} to {100 * own.high:.1f})"
        yield text if result is all_full else f"{text}; {compare(own, other)}"
    yield f"{sum(result['bytes_down'] + result['bytes_up']) / 1e9:.1f} GB"
    yield f"{sum(result['client_macs']) / 1e12:.1f} T"


if __name__ == "__main__":
    main()
