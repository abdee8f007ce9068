"""What federated training is compared with: the same foundation model fine-tuned in one place on all the data.

The whole network, every parameter, with dropout: 3 epochs, AdamW at a constant 1e-4 after 5 warm-up steps, batches of
32. It is measured on the test split once, at the end; nothing is chosen on it. Writes
`benchmarks/central_fine_tuning.json`.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from raffm_utils import evaluate, load_split
from raffm_utils.data import Split
from raffm_utils.federated import RECIPES, Recipe, fit, make_adam, start
from raffm_utils.writing import write_atomically

RESULTS = Path(__file__).with_suffix(".json")
TEXT = [name for name, named in RECIPES.items() if named.dataset in ("movie_reviews", "sst2")]


class Shown:
    """A split whose batches move a bar, one for each epoch."""

    def __init__(self, data: Split) -> None:
        self.data, self.labels, self.label_names = data, data.labels, data.label_names

    def __len__(self) -> int:
        return len(self.data)

    def grouped(self, order: torch.Tensor, batch_size: int) -> torch.Tensor:
        return self.data.grouped(order, batch_size)

    def batches(self, batch_size: int, order: torch.Tensor) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        return iter(tqdm(self.data.batches(batch_size, order), total=-(-len(self) // batch_size), unit="step"))


def fine_tune(name: str, epochs: int, learning_rate: float, batch_size: int, seed: int) -> dict[str, object]:
    """Fine-tune the foundation model of a named checkpoint on its data; the accuracy on test, and how it was had."""
    named = RECIPES[name]
    supernet, processor = start(named)
    train = load_split(named.dataset, "train", processor=processor)
    recipe = Recipe(local_epochs=epochs, batch_size=batch_size, autocast=False)
    begin = time.perf_counter()
    model = supernet.extract(supernet.full, copy=True)
    torch.manual_seed(seed)  # of dropout
    model.train()
    generator = torch.Generator().manual_seed(int(np.random.default_rng([seed, 3]).integers(2**62)))
    fit(model, Shown(train), recipe, make_adam(model, recipe, learning_rate), generator)  # type: ignore[arg-type]
    seconds = time.perf_counter() - begin
    measured = asdict(evaluate(model, load_split(named.dataset, "test", processor=processor)))
    del measured["examples_per_second"]
    settings = {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size, "seed": seed}
    return {"dataset": named.dataset, "split": "test", **measured, **settings, "seconds": round(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=TEXT, help=f"named checkpoints ({' '.join(TEXT)})")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.names:
        found = fine_tune(name, options.epochs, options.learning_rate, options.batch_size, options.seed)
        results[name] = found
        write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
        print(f"{name}: {found['accuracy']:.2%} ({found['low']:.2%} to {found['high']:.2%}) of {found['examples']}")


if __name__ == "__main__":
    main()
