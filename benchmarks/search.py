"""The best submodel found under a budget against the median of random ones, at five budgets, on the test split.

For each budget: candidates by the predictor (fitted to a sweep on validation examples) and the largest that fits; one
of them chosen by successive halving on validation examples; then, once, on test: the chosen one, and random submodels
of about the same size (drawn uniformly from the window just below the limit). All see the same test examples, so
their difference is bootstrapped pair by pair: over examples, and over which random submodels were drawn.
"""

import argparse
import json
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from raffm_utils import (
    AccuracyPredictor,
    Budget,
    SubmodelConfig,
    Supernet,
    best_submodels,
    choose,
    largest_submodel,
    load_split,
    read_sweep,
)
from raffm_utils.data import Split
from raffm_utils.evaluation import in_eval_mode, logits_of
from raffm_utils.plotting import FIGURES

CHECKPOINT = "vit-small-fashion-mnist-large-budget"
SHARES = (0.2, 0.35, 0.5, 0.65, 0.8)
WINDOW = 0.05  # random submodels lie at most this share of the whole range below the limit
RESAMPLES = 2000
RESULTS = Path(__file__).with_suffix(".json")


def right_answers(supernet: Supernet, config: SubmodelConfig, data: Split) -> np.ndarray:
    """For every example of a split, always in the same order, whether a submodel classifies it rightly."""
    model = in_eval_mode(supernet.extract(config))
    with torch.inference_mode():
        parts = [logits_of(model, inputs).argmax(dim=1) == truth for inputs, truth in data.batches(128)]
    return torch.cat(parts).numpy()


def margin_interval(chosen: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95 % bootstrap interval of the accuracy of one submodel less the median of others, (others, examples)."""
    examples = len(chosen)
    answers = np.vstack([chosen, others]).astype(np.float32)
    margins = []
    for _ in range(RESAMPLES):
        counts = rng.multinomial(examples, np.full(examples, 1 / examples)).astype(np.float32)
        accuracies = answers @ counts / examples
        drawn = rng.integers(1, len(answers), len(others))
        margins.append(accuracies[0] - np.median(accuracies[drawn]))
    low, high = np.quantile(margins, (0.025, 0.975))
    return float(low), float(high)


def compare(chosen: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Accuracies on test, their margin, and whether it is larger than chance would have it."""
    accuracies = others.mean(axis=1)
    middle = others[np.argsort(accuracies)[len(accuracies) // 2]]  # the random submodel of median accuracy
    won, lost = int((chosen & ~middle).sum()), int((~chosen & middle).sum())
    intervals = [
        binomtest(int(answers.sum()), len(answers)).proportion_ci(0.95, method="wilson") for answers in (chosen, middle)
    ]
    low, high = margin_interval(chosen, others, rng)
    return {
        "accuracy": float(chosen.mean()),
        "low": float(intervals[0].low),
        "high": float(intervals[0].high),
        "random_median": float(np.median(accuracies)),
        "random_low": float(intervals[1].low),
        "random_high": float(intervals[1].high),
        "random_accuracies": sorted(map(float, accuracies)),
        "margin": float(chosen.mean() - np.median(accuracies)),
        "margin_low": low,
        "margin_high": high,
        "mcnemar_p": float(binomtest(won, won + lost).pvalue) if won + lost else 1.0,
        "larger_than_paired_interval": low > 0,
        "larger_than_both_intervals": bool(intervals[0].low > intervals[1].high),
    }


def measure(supernet: Supernet, predictor: AccuracyPredictor, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each budget."""
    space, metric = supernet.space, supernet.family.size_metric
    dataset = supernet.spec.provenance["dataset"]
    validation, test = (
        load_split(dataset, split, limit=limit, processor=supernet.processor)
        for split, limit in (("validation", arguments.validation_examples), ("test", arguments.examples))
    )
    least, most = space.reach(metric)
    rows = []
    for number, share in enumerate(SHARES):
        rng = np.random.default_rng([arguments.seed, number])
        limit = int(least + share * (most - least))
        inside: dict[str, Any] = {f"max_{metric}": limit}
        window = Budget(**inside, **{f"min_{metric}": int(limit - WINDOW * (most - least))})
        start = time.perf_counter()
        found = best_submodels(space, predictor, Budget(**inside), arguments.candidates, rng)
        seconds = time.perf_counter() - start
        candidates = [*found, largest_submodel(space, Budget(**inside), metric)]
        selection = choose(supernet, candidates, validation, rng=rng)
        random = [space.sample(window, rng) for _ in range(arguments.random)]
        answers = [right_answers(supernet, config, test) for config in (selection.config, *random)]
        rows.append(
            {
                "share": share,
                "metric": metric,
                "limit": limit,
                "size": space.cost_of(selection.config, metric),
                "chosen": widths(selection.config),
                "predicted": vars(predictor.predict(selection.config)),
                "place_by_prediction": candidates.index(selection.config) + 1,
                "validation_accuracy": selection.chosen.accuracy,
                "search_seconds": round(seconds, 3),
                **compare(answers[0], np.stack(answers[1:]), rng),
            }
        )
        print(row_text(rows[-1]), flush=True)
    return rows


def widths(config: SubmodelConfig) -> dict[str, Any]:
    """The widths, for the file."""
    return {"hidden": config.hidden, "attention": list(config.attention), "ffn": list(config.ffn)}


def row_text(row: dict[str, Any]) -> str:
    """A line of the table."""
    verdict = "yes" if row["larger_than_paired_interval"] else "no"
    chosen, random, margin = (
        f"{100 * row[name]:{sign}.2f} ({100 * row[low]:{sign}.2f} to {100 * row[high]:{sign}.2f})"
        for name, low, high, sign in (
            ("accuracy", "low", "high", ""),
            ("random_median", "random_low", "random_high", ""),
            ("margin", "margin_low", "margin_high", "+"),
        )
    )
    budget = f"| {row['share']:.0%} | {row['limit'] / 1e6:.2f} M |"
    return f"{budget} {chosen} | {random} | {margin} | {verdict} | {row['mcnemar_p']:.3f} |"


def main() -> None:
    """Fit, search, measure, print a table, and write `search.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default=CHECKPOINT, help=f"a name or a folder ({CHECKPOINT})")
    parser.add_argument("--rows", type=Path, help="validation sweep (figures/data/CHECKPOINT-validation.jsonl)")
    parser.add_argument("--examples", type=int, help="test examples (all)")
    parser.add_argument("--validation-examples", type=int, help="validation examples that choose (all)")
    parser.add_argument("--candidates", type=int, default=15, help="submodels from the predictor for each budget (15)")
    parser.add_argument("--random", type=int, default=25, help="random submodels for each budget (25)")
    parser.add_argument("--tokens", type=int, default=32, help="token count of text models (32)")
    parser.add_argument("--seed", type=int, default=0, help="of every draw (0)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    arguments = parser.parse_args()
    supernet = Supernet.from_pretrained(arguments.checkpoint, tokens=arguments.tokens)
    path = arguments.rows or FIGURES / "data" / f"{supernet.name}-validation.jsonl"
    predictor = AccuracyPredictor.fit(read_sweep(path), supernet.space)
    held_out = {name: getattr(predictor.held_out, name) for name in ("rmse", "spread", "kendall_tau", "coverage")}
    print(f"{predictor.submodels} submodels on {predictor.examples} validation examples each; held out:", held_out)
    print(
        "| budget | limit | chosen (95 %) | median random (95 %) | margin, points (95 %) | above chance | McNemar p |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    rows = measure(supernet, predictor, arguments)
    names = ("examples", "validation_examples", "candidates", "random", "tokens", "seed")
    content = {
        "checkpoint": supernet.name,
        "fingerprint": supernet.fingerprint(),
        "settings": {name: getattr(arguments, name) for name in names},
        "predictor": {"submodels": predictor.submodels, "examples": predictor.examples, **held_out},
        "machine": {"cores": os.cpu_count(), "torch": version("torch"), "scikit-learn": version("scikit-learn")},
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
