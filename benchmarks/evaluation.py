"""How near evaluation comes to the rate of a plain matrix product, in one run.

Small sweeps near three sizes, with one submodel at a time and with two side by side, take turns with matrix products of
the shapes of the full network's FFN on all threads. The ratio is of multiply-accumulates per second, counted by
`Supernet.cost`: what is no product (norms, activations, softmax, pixels) counts for nothing. Writes
`benchmarks/evaluation.json`.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from raffm_utils import SubmodelConfig, Supernet, load_split, sweep
from raffm_utils.data import Split
from raffm_utils.space import near_share
from raffm_utils.writing import write_atomically

CHECKPOINT = "vit-small-fashion-mnist-large-budget"
SHARES = {"full": 1.0, "half": 0.5, "fifth": 0.2, "twentieth": 0.05}
ROWS = 2176  # 128 images of 17 tokens
REPEATS = 200  # products in one turn
RESULTS = Path(__file__).with_suffix(".json")


def product_rate(hidden: int, ffn: int) -> float:
    """Multiply-accumulates per second of a matrix product."""
    left, right = torch.randn(ROWS, hidden), torch.randn(hidden, ffn)
    start = time.perf_counter()
    for _ in range(REPEATS):
        left @ right
    return REPEATS * ROWS * hidden * ffn / (time.perf_counter() - start)


def sweep_rate(supernet: Supernet, configs: list[SubmodelConfig], data: Split, workers: int) -> float:
    """Multiply-accumulates per second of a sweep."""
    macs = sum(supernet.cost(config).macs or 0 for config in configs)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        sweep(supernet, configs, data, Path(folder, "rows.jsonl"), workers=workers, progress=False)
        return macs * len(data) / (time.perf_counter() - start)


def main() -> None:
    """Measure, print a table, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    supernet = Supernet.from_pretrained(CHECKPOINT)
    data = load_split(supernet.spec.dataset, "validation", limit=arguments.examples, processor=supernet.processor)
    rng = np.random.default_rng(0)
    drawn = {name: [near_share(supernet.space, share, rng) for _ in range(4)] for name, share in SHARES.items()}
    drawn["full"] = [near_share(supernet.space, share, rng) for share in (1.0, 0.97)]
    found: dict[str, list[float]] = {}
    for _ in range(arguments.turns):
        whole = product_rate(supernet.hidden, supernet.full.ffn[0])
        for name, configs in drawn.items():
            for workers in (1, 2):
                rate = sweep_rate(supernet, list(dict.fromkeys(configs)), data, workers)
                found.setdefault(f"{name}, {workers}", []).append(rate / whole)
    print("| size, submodels at a time | rate of a matrix product |\n|---|---|")
    for name, ratios in found.items():
        print(f"| {name} | {median(ratios):.0%} ({min(ratios):.0%} to {max(ratios):.0%}) |")
    machine = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    write_atomically(RESULTS, json.dumps({"ratios": found, "machine": machine}, indent=1) + "\n")


if __name__ == "__main__":
    main()
