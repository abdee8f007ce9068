"""How well the predictor of a checkpoint foretells submodels that it has not seen, and how well any could.

Measured accuracies have an error of their own, which nothing can predict. Its size follows from the sweep itself: the
examples are split into halves at random, and the submodels ranked by both. The correlation of the halves gives that of
a perfect predictor with the whole (Spearman-Brown, and the square root of the reliability), and so its Kendall tau, as
of two normal variables. What the promising submodels at the end of a sweep are worth is shown by how much the
predictor overrates them, held out, beside one that was fitted to the others alone. Nothing is measured anew. Writes
`benchmarks/predictor.json`.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from raffm_utils import AccuracyPredictor, Supernet, read_sweep
from raffm_utils.evaluation import SweepRow, right_answers
from raffm_utils.plotting import FIGURES
from raffm_utils.space import ElasticSpace
from raffm_utils.writing import write_atomically

CHECKPOINT = "vit-small-fashion-mnist-large-budget"
DRAWN = 401  # rows of its stored sweep that come before those of promising submodels
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


def overrating(rows: list[SweepRow], drawn: int, space: ElasticSpace, predictor: AccuracyPredictor) -> dict[str, float]:
    """Mean of predicted less measured accuracy over the rows after the first `drawn`, without them and held out."""
    alone, promising = AccuracyPredictor.fit(rows[:drawn], space), rows[drawn:]
    without = [alone.predict(row.config).accuracy - row.accuracy for row in promising]
    held_out = (predictor.held_out.predicted - predictor.held_out.measured)[drawn:]
    return {
        "promising": len(promising),
        "overrating_of_promising_without_them": float(np.mean(without)),
        "overrating_of_promising_held_out": float(held_out.mean()),
        "kendall_tau_without_promising": alone.held_out.kendall_tau,
        "kendall_tau_near_without_promising": alone.held_out.kendall_tau_near,
    }


def main() -> None:
    """Fit, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default=CHECKPOINT, help=f"a name or a folder ({CHECKPOINT})")
    parser.add_argument("--drawn", type=int, default=DRAWN, help=f"rows before those of promising submodels ({DRAWN})")
    arguments = parser.parse_args()
    supernet = Supernet.from_pretrained(arguments.checkpoint)
    rows = read_sweep(FIGURES / "data" / f"{supernet.name}-validation.jsonl")
    if arguments.drawn >= len(rows):
        parser.error(
            f"--drawn {arguments.drawn}: the sweep has {len(rows)} rows; say how many come before the promising"
        )
    predictor = AccuracyPredictor.fit(rows, supernet.space)
    halves = tau_of_halves(np.stack([right_answers(row) for row in rows]), np.random.default_rng(0))
    found = {
        "submodels": predictor.submodels,
        "validation_examples": predictor.examples,
        **{name: getattr(predictor.held_out, name) for name in HELD_OUT},
        **overrating(rows, arguments.drawn, supernet.space, predictor),
        "kendall_tau_of_halves": halves,
        "kendall_tau_of_a_perfect_predictor": tau_of_a_perfect_predictor(halves),
    }
    print("\n".join(f"{name}: {value:.4g}" for name, value in found.items()))
    write_atomically(RESULTS, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
