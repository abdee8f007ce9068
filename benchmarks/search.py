"""The best submodel found under a budget against others of its size, at five budgets, on the test split.

For each budget: candidates by the predictor (fitted to a sweep on validation examples) and the largest that fits; one
of them chosen by successive halving on validation examples; then, once, on test: the chosen one; random submodels of
about the same size (drawn uniformly from the window just below the limit); uniform scaling (the largest that fits with
all layers alike); the largest that fits; and with `--best-of N` the best of N random ones on the same validation
examples. All see the same test examples, so differences are taken pair by pair; that to
the median of random ones is bootstrapped, over examples and over which were drawn.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from raffm_utils import (
    AccuracyPredictor,
    Budget,
    SubmodelConfig,
    Supernet,
    best_submodels,
    choose,
    compare,
    evaluate,
    largest_submodel,
    load_split,
    read_sweep,
)
from raffm_utils.evaluation import Evaluation, right_answers
from raffm_utils.plotting import FIGURES
from raffm_utils.writing import write_atomically

CHECKPOINT = "vit-small-fashion-mnist-large-budget"
SHARES = (0.02, 0.05, 0.1, 0.2, 0.5)  # of the parameters of the full network
WINDOW = 0.05  # random submodels lie at most this share of the limit below it
RESAMPLES = 2000
HELD_OUT = ("rmse", "spread", "kendall_tau", "kendall_tau_near", "coverage")
RESULTS = Path(__file__).with_suffix(".json")


def uniform_scalings(supernet: Supernet, budget: Budget) -> Iterator[SubmodelConfig]:
    """All submodels inside a budget of which all layers are alike, with both blocks."""
    space = supernet.space
    shared = [sorted(set.intersection(*map(set, choices)) - {0}) for choices in (space.attention, space.ffn)]
    layers = len(space.attention)
    for hidden, attention, ffn in product(space.hidden, *shared):
        config = SubmodelConfig(hidden, (attention,) * layers, (ffn,) * layers)
        if space.fits(config, budget):
            yield config


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


def against(chosen: Evaluation, random: list[Evaluation], rng: np.random.Generator) -> dict[str, Any]:
    """Accuracy on test, and by how much it is above the median of random ones, with intervals."""
    answers = np.stack([right_answers(each) for each in random])
    accuracies = answers.mean(axis=1)
    middle = random[int(np.argsort(accuracies)[len(accuracies) // 2])]  # the random submodel of median accuracy
    low, high = margin_interval(right_answers(chosen), answers, rng)
    return {
        **{name: getattr(chosen, name) for name in ("accuracy", "low", "high")},
        "random_median": float(np.median(accuracies)),
        "random_low": middle.low,
        "random_high": middle.high,
        "random_accuracies": sorted(map(float, accuracies)),
        "margin": float(chosen.accuracy - np.median(accuracies)),
        "margin_low": low,
        "margin_high": high,
        "mcnemar_p": compare(chosen, middle).p,
        "larger_than_paired_interval": low > 0,
    }


def beside(chosen: Evaluation, config: SubmodelConfig, other: SubmodelConfig | None, measured: Any) -> Any:
    """How the chosen submodel differs from one other, with the paired interval; None where no such one fits."""
    if other is None:
        return None
    found = compare(chosen, measured)
    return {
        "same": config == other,
        "widths": widths(other),
        "accuracy": measured.accuracy,
        **vars(found),
        "p": found.p,
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
    for share in arguments.shares:
        rng = np.random.default_rng([arguments.seed, SHARES.index(share)])
        limit = int(share * most)
        if limit < least:
            print(f"| {share:.0%} | {limit / 1e6:.2f} M | below the smallest, {least / 1e6:.2f} M |", flush=True)
            continue
        inside: dict[str, Any] = {f"max_{metric}": limit}
        budget, window = Budget(**inside), Budget(**inside, **{f"min_{metric}": int((1 - WINDOW) * limit)})
        start = time.perf_counter()
        found = best_submodels(space, predictor, budget, arguments.candidates, rng)
        seconds = time.perf_counter() - start
        largest = largest_submodel(space, budget, metric)
        alike = max(uniform_scalings(supernet, budget), key=lambda each: space.cost_of(each, metric), default=None)
        candidates = [*found, largest]
        selection = choose(supernet, candidates, validation, rng=rng, progress=False)
        random = [space.sample(window, rng) for _ in range(arguments.random)]
        drawn = [space.sample(window, rng) for _ in range(arguments.best_of)]
        lucky = max(drawn, key=lambda each: evaluate(supernet.extract(each), validation).accuracy, default=None)
        tested = dict.fromkeys(config for config in (selection.config, largest, alike, lucky, *random) if config)
        on_test = {config: evaluate(supernet.extract(config), test) for config in tested}
        chosen = on_test[selection.config]
        others = {"uniform": alike, "largest": largest, "best_of": lucky}
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
                "answers_to_choose": selection.measured,
                "answers_of_best_of": arguments.best_of * len(validation),
                "search_seconds": round(seconds, 3),
                **against(chosen, [on_test[config] for config in random], rng),
                **{
                    name: beside(chosen, selection.config, other, other and on_test[other])
                    for name, other in others.items()
                },
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
    others = [
        "none"
        if (other := row[name]) is None
        else "the same"
        if other["same"]
        else f"{100 * other['difference']:+.2f} ({100 * other['low']:+.2f} to {100 * other['high']:+.2f})"
        for name in ("uniform", "largest", "best_of")
    ]
    budget = f"| {row['share']:.0%} | {row['limit'] / 1e6:.2f} M |"
    return f"{budget} {chosen} | {random} | {margin} | {verdict} | {' | '.join(others)} |"


def main() -> None:
    """Fit, search, measure, print a table, and write `search.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default=CHECKPOINT, help=f"a name or a folder ({CHECKPOINT})")
    parser.add_argument("--rows", type=Path, help="validation sweep (figures/data/CHECKPOINT-validation.jsonl)")
    parser.add_argument("--examples", type=int, help="test examples (all)")
    parser.add_argument("--validation-examples", type=int, help="validation examples that choose (all)")
    parser.add_argument("--candidates", type=int, default=15, help="submodels from the predictor for each budget (15)")
    parser.add_argument("--random", type=int, default=25, help="random submodels for each budget (25)")
    parser.add_argument("--best-of", type=int, default=0, help="random submodels measured on validation as well (0)")
    parser.add_argument("--shares", type=float, nargs="+", choices=SHARES, default=SHARES, help="limits (all)")
    parser.add_argument("--tokens", type=int, default=32, help="token count of text models (32)")
    parser.add_argument("--seed", type=int, default=0, help="of every draw (0)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    arguments = parser.parse_args()
    supernet = Supernet.from_pretrained(arguments.checkpoint, tokens=arguments.tokens)
    path = arguments.rows or FIGURES / "data" / f"{supernet.name}-validation.jsonl"
    predictor = AccuracyPredictor.fit(read_sweep(path), supernet.space)
    held_out = {name: getattr(predictor.held_out, name) for name in HELD_OUT}
    print(f"{predictor.submodels} submodels on {predictor.examples} validation examples each; held out:", held_out)
    print(
        "| budget | limit | chosen (95 %) | median random (95 %) | margin, points (95 %) | above chance "
        "| above uniform scaling (95 %) | above the largest (95 %) | above the best random (95 %) |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    rows = measure(supernet, predictor, arguments)
    names = ("examples", "validation_examples", "candidates", "random", "best_of", "tokens", "seed")
    content = {
        "checkpoint": supernet.name,
        "fingerprint": supernet.fingerprint(),
        "settings": {name: getattr(arguments, name) for name in names},
        "predictor": {"submodels": predictor.submodels, "examples": predictor.examples, **held_out},
        "machine": {"cores": os.cpu_count(), "torch": version("torch"), "scikit-learn": version("scikit-learn")},
        "rows": rows,
    }
    write_atomically(arguments.out, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
