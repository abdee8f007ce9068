"""What heterogeneity costs: federations of equal length whose clients are large, small, or all train the full network.

Fashion-MNIST at 42x42 pixels, the DINOv2 backbone of the bundled image checkpoint, 100 clients of whom 10 take part in
a round, each on at most 192 of its images, IID or with labels skewed by Dirichlet(0.5). For each of the six: accuracy
of the full network, a random submodel of half its parameters (the same in all six), and the smallest, on all 10,000
test images; bytes sent and MACs of the clients, counted exactly. Nothing is chosen. Writes
`benchmarks/heterogeneity.json`; a run that was stopped goes on.
"""

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from raffm_utils import Supernet, evaluate, load_split
from raffm_utils.evaluation import ends
from raffm_utils.federated import RECIPES, Named, Recipe, align, count_run, run, start
from raffm_utils.writing import write_atomically

RESULTS, RUNS = Path(__file__).with_suffix(".json"), Path(__file__).resolve().parent.parent / "runs" / "heterogeneity"
NAMED: Named = replace(RECIPES["vit-small-cifar10-large-budget"], dataset="fashion_mnist", image_size=42)
CLIENTS: dict[str, dict[str, Any]] = {
    "large": {"setting": "large"},
    "small": {"setting": "small", "full_participant": True},
    "all full": {"submodels": False},
}
SKEWS = {"IID": None, "Dirichlet(0.5)": 0.5}


def recipe_of(rounds: int, clients: str, skew: str) -> Recipe:
    """Equal rounds and data for all six; only the size of the clients' networks and the skew differ."""
    common = replace(
        NAMED.recipe, rounds=rounds, cosine_rounds=rounds, cooldown_rounds=3, average_rounds=3, local_steps=12
    )
    return replace(common, patch_share=1.0, dirichlet=SKEWS[skew], **CLIENTS[clients])


def measure(supernet: Supernet, recipe: Recipe, folder: Path, test: Any, train: Any, validation: Any) -> dict[str, Any]:
    """Run one federation; its accuracies and costs."""
    begin = time.perf_counter()
    results = run(supernet, train, validation, recipe, folder)
    seconds = round(time.perf_counter() - begin)
    counted = count_run(supernet, recipe, train.labels)
    clients = [cost for costs in counted for cost in costs]
    accuracy = {}
    for size, config in ends(supernet).items():
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
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    supernet, processor = start(NAMED)
    train, validation, test = (
        load_split(NAMED.dataset, split, processor=processor) for split in ("train", "validation", "test")
    )
    align(NAMED, supernet, train, validation)
    begin = {name: tensor.clone() for name, tensor in supernet.model.state_dict().items()}
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for skew in SKEWS:
        for clients in CLIENTS:
            name, recipe = f"{clients}, {skew}", recipe_of(options.rounds, clients, skew)
            if results.get(name, {}).get("recipe") == asdict(recipe):
                continue
            supernet.model.load_state_dict(begin)
            folder = RUNS / f"{clients}-{skew}-{options.rounds}".replace(" ", "-")
            results[name] = measure(supernet, recipe, folder, test, train, validation.subset(range(300)))
            write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
            found = results[name]["accuracy"]
            print(f"{name}: " + ", ".join(f"{size} {found[size]['accuracy']:.2%}" for size in found), flush=True)


if __name__ == "__main__":
    main()
