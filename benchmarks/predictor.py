"""How well the predictor of a checkpoint foretells submodels that it has not seen, and how well any could.

Measured accuracies have an error of their own, which nothing can predict. Its size follows from the sweep itself: the
examples are split into halves at random, and the submodels ranked by both. The correlation of the halves gives that of
a perfect predictor with the whole (Spearman-Brown, and the square root of the reliability), and so its Kendall tau, as
of two normal variables. Nothing is measured anew. Writes `benchmarks/predictor.json`.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from raffm_utils import AccuracyPredictor, Supernet, read_sweep
from raffm_utils.evaluation import right_answers
from raffm_utils.plotting import FIGURES
from raffm_utils.writing import write_atomically

CHECKPOINT = "vit-small-fashion-mnist-large-budget"
SPLITS = 50
HELD_OUT = ("rmse", "spread", "kendall_tau", "kendall_tau_near", "coverage")
RESULTS = Path(__file__).with_suffix(".json")


def tau_of_halves(answers: np.ndarray, rng: np.random.Generator) -> float:
    """Mean Kendall tau between accuracies on two random halves of the examples; answers are (submodels, examples)."""
    taus = []
    for _ in range(SPLITS):
        order = rng.permutation(answers.shape[1])
        first, second = (answers[:, half].mean(axis=1) for half in np.array_split(order, 2))
        taus.append(kendalltau(first, second).statistic)
    return float(np.mean(taus))


def tau_of_a_perfect_predictor(halves: float) -> float:
    """Kendall tau between true accuracies and those on all examples, by that between halves of the examples."""
    half = math.sin(math.pi / 2 * halves)
    return 2 / math.pi * math.asin(math.sqrt(2 * half / (1 + half)))


def main() -> None:
    """Fit, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default=CHECKPOINT, help=f"a name or a folder ({CHECKPOINT})")
    arguments = parser.parse_args()
    supernet = Supernet.from_pretrained(arguments.checkpoint)
    rows = read_sweep(FIGURES / "data" / f"{supernet.name}-validation.jsonl")
    predictor = AccuracyPredictor.fit(rows, supernet.space)
    halves = tau_of_halves(np.stack([right_answers(row) for row in rows]), np.random.default_rng(0))
    found = {
        "submodels": predictor.submodels,
        "validation_examples": predictor.examples,
        **{name: getattr(predictor.held_out, name) for name in HELD_OUT},
        "kendall_tau_of_halves": halves,
        "kendall_tau_of_a_perfect_predictor": tau_of_a_perfect_predictor(halves),
    }
    print("\n".join(f"{name}: {value:.4g}" for name, value in found.items()))
    write_atomically(RESULTS, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
