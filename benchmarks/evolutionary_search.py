"""Exact search against an evolutionary one with the same predictor, at five budgets, in one run.

The evolutionary search is the genetic algorithm of pymoo with a population of 100, as once-for-all searches: genes are
the hidden width and each layer's two widths, and what is over the limit is infeasible. It starts from submodels that
are drawn uniformly inside the budget, an advantage that exact counting gives it. Predicted accuracies are by the
validation sweep; nothing is measured. Needs `pip install "pymoo>=0.6.1,<0.7"`. Writes
`benchmarks/evolutionary_search.json`.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.core.problem import Problem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.optimize import minimize

from raffm_utils import AccuracyPredictor, Budget, SubmodelConfig, Supernet, best_submodel, read_sweep
from raffm_utils.plotting import FIGURES
from raffm_utils.space import ElasticSpace
from raffm_utils.writing import write_atomically

CHECKPOINT = "vit-small-fashion-mnist-large-budget"
SHARES = (0.05, 0.1, 0.2, 0.5, 0.8)  # of the parameters of the full network
POPULATION, GENERATIONS = 100, 500
SEEDS = 3
RESULTS = Path(__file__).with_suffix(".json")


class Genes(Problem):
    """Minus the score of submodels that are given by the places of their widths among the choices."""

    def __init__(self, space: ElasticSpace, predictor: AccuracyPredictor, limit: float) -> None:
        self.space, self.surface, self.limit = space, predictor.surface, limit
        self.choices = [space.hidden, *space.attention, *space.ffn]
        self.asked = 0
        super().__init__(
            n_var=len(self.choices), n_obj=1, n_ieq_constr=1, xl=0, xu=[len(c) - 1 for c in self.choices], vtype=int
        )

    def config(self, genes: np.ndarray) -> SubmodelConfig:
        """The submodel of one row of genes."""
        hidden, *widths = (int(options[int(g)]) for options, g in zip(self.choices, genes, strict=True))
        layers = len(self.space.attention)
        return SubmodelConfig(hidden, tuple(widths[:layers]), tuple(widths[layers:]))

    def genes(self, config: SubmodelConfig) -> list[int]:
        """The inverse of `config`."""
        widths = (config.hidden, *config.attention, *config.ffn)
        return [list(options).index(width) for options, width in zip(self.choices, widths, strict=True)]

    def _evaluate(self, x: np.ndarray, out: dict[str, Any], *args: object, **options: object) -> None:
        configs = [self.config(genes) for genes in x]
        self.asked += len(configs)
        rows = np.array([self.surface.terms.row(config) for config in configs])
        out["F"] = -(rows @ self.surface.coefficients)
        out["G"] = [self.space.cost_of(config, "parameters") / self.limit - 1 for config in configs]


def evolved(problem: Genes, start: np.ndarray, seed: int) -> np.ndarray:
    """The best genes that the genetic algorithm finds."""
    repair = RoundingRepair()
    algorithm = GA(
        pop_size=POPULATION,
        sampling=start,
        crossover=SBX(prob=0.9, eta=3.0, vtype=float, repair=repair),
        mutation=PM(prob=1.0, prob_var=0.1, eta=3.0, vtype=float, repair=repair),
        eliminate_duplicates=True,
    )
    found = minimize(problem, algorithm, ("n_gen", GENERATIONS), seed=seed, verbose=False)
    genes: np.ndarray = found.X
    return genes


def main() -> None:
    """Search both ways, print a table, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default=CHECKPOINT, help=f"a name or a folder ({CHECKPOINT})")
    parser.add_argument("--rows", type=Path, help="validation sweep (figures/data/CHECKPOINT-validation.jsonl)")
    arguments = parser.parse_args()
    supernet = Supernet.from_pretrained(arguments.checkpoint)
    space = supernet.space
    path = arguments.rows or FIGURES / "data" / f"{supernet.name}-validation.jsonl"
    predictor = AccuracyPredictor.fit(read_sweep(path), space)
    best_submodel(space, predictor, Budget(max_parameters=space.reach("parameters")[1]))  # what is done once
    rows = []
    print("| budget | exact: predicted | seconds | evolved: predicted, worst to best | seconds | submodels scored |")
    print("|---|---|---|---|---|---|", flush=True)
    for share in SHARES:
        limit = share * space.reach("parameters")[1]
        if limit < space.reach("parameters")[0]:
            continue
        budget = Budget(max_parameters=limit)
        begin = time.perf_counter()
        exact = predictor.predict(best_submodel(space, predictor, budget)).accuracy
        exact_seconds = time.perf_counter() - begin
        accuracies, begin, asked = [], time.perf_counter(), 0
        for seed in range(SEEDS):
            problem = Genes(space, predictor, limit)
            rng = np.random.default_rng(seed)
            start = np.array([problem.genes(space.sample(budget, rng)) for _ in range(POPULATION)])
            accuracies.append(predictor.predict(problem.config(evolved(problem, start, seed))).accuracy)
            asked += problem.asked
        seconds = (time.perf_counter() - begin) / SEEDS
        rows.append(
            {
                "share": share,
                "exact": exact,
                "exact_seconds": exact_seconds,
                "evolved": sorted(accuracies),
                "evolved_seconds": seconds,
                "scored": asked // SEEDS,
                "time_ratio": seconds / exact_seconds,
            }
        )
        print(
            f"| {share:.0%} | {exact:.2%} | {exact_seconds:.3f} | {min(accuracies):.2%} to {max(accuracies):.2%} "
            f"| {seconds:.1f} | {asked // SEEDS:,} |",
            flush=True,
        )
    write_atomically(RESULTS, json.dumps({"fingerprint": supernet.fingerprint(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
