"""How well a few measured submodels tell the latency of all others, and how well their MACs would.

In one run, for every setting: the error of `LatencyModel` on held-out submodels, and of the guess that latency is in
proportion to MACs, its one factor fitted to the same measured submodels. Nothing is read from a cache. Networks are
the bundled checkpoint, and one of the size of MiniLM-L6 with random weights, which take as long as trained ones.
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
import transformers

from raffm_utils import LatencyModel, SubmodelConfig, Supernet
from raffm_utils.evaluation import processor_name
from raffm_utils.space import BERT
from raffm_utils.supernet import PER_HEAD, ElasticSpec
from raffm_utils.writing import write_atomically

IMAGE = "vit-small-fashion-mnist-large-budget"
RESULTS = Path(__file__).with_suffix(".json")


def text_supernet() -> Supernet:
    """A random BERT with the widths of MiniLM-L6, elastic on all three axes."""
    widths: dict[str, Any] = dict(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=2
    )
    config = transformers.BertConfig(**widths)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(config)
    space = {
        "residual_hidden_space": list(range(384, 263, -24)),
        "atten_out_space": list(range(384, 191, -24)),
        "inter_hidden_space": list(range(1536, 767, -128)),
        "head_slicing": PER_HEAD,
    }
    return Supernet(model, BERT, ElasticSpec.from_json(space, "the benchmark"))


def errors_by_macs(supernet: Supernet, model: LatencyModel) -> np.ndarray:
    """Relative errors on held-out submodels of milliseconds in proportion to MACs."""

    def macs(config: SubmodelConfig) -> float:
        return float(supernet.cost(config, model.tokens).macs or 0)

    shares = np.array([macs(config) / ms for config, ms in model.measured])
    factor = shares.sum() / (shares**2).sum()  # least squares of relative errors, as the latency model's own fit
    return np.array([abs(factor * macs(config) / ms - 1) for config, ms in model.held_out])


def measure(name: str, supernet: Supernet, seconds: float, seed: int, **setting: Any) -> dict[str, Any]:
    """One row of the results."""
    start = time.perf_counter()
    rng = np.random.default_rng(seed)
    model = LatencyModel.fit(supernet, **setting, seconds=seconds, held_out=20, cache=False, rng=rng)
    took = time.perf_counter() - start
    errors = np.array([abs(model.predict_ms(config) / ms - 1) for config, ms in model.held_out])
    by_macs = errors_by_macs(supernet, model)
    times = [ms for _, ms in (*model.measured, *model.held_out)]
    return {
        "network": name,
        **setting,
        "fitted": len(model.measured),
        "held_out": len(model.held_out),
        "fit_seconds": round(took, 1),
        "slowest_over_fastest": round(max(times) / min(times), 2),
        "full_ms": round(model.predict_ms(supernet.full), 3),
        "median_error": round(float(np.median(errors)), 4),
        "largest_error": round(float(errors.max()), 4),
        "median_error_by_macs": round(float(np.median(by_macs)), 4),
        "largest_error_by_macs": round(float(by_macs.max()), 4),
        "by_macs_over_model": round(float(np.median(by_macs) / np.median(errors)), 2),
    }


def main() -> None:
    """Measure, print a table, and write the results if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40, help="measuring time for each setting (40)")
    parser.add_argument("--seed", type=int, default=0, help="which submodels are drawn, and their order (0)")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name} beside this script")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    networks = {IMAGE: Supernet.from_pretrained(IMAGE), "bert-mini, random weights": text_supernet()}
    rows = []
    print("| network | batch | threads | tokens | full network | slowest / fastest | error | by MACs | ratio |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name, batch_size, threads, tokens in (
        (IMAGE, 1, 1, None),
        (IMAGE, 32, 1, None),
        (IMAGE, 1, 2, None),
        ("bert-mini, random weights", 1, 1, 64),
        ("bert-mini, random weights", 8, 1, 128),
    ):
        setting = {"batch_size": batch_size, "threads": threads, "tokens": tokens}
        row = measure(name, networks[name], arguments.seconds, arguments.seed, **setting)
        rows.append(row)
        print(
            f"| {name} | {batch_size} | {threads} | {tokens or 'own'} | {row['full_ms']:.1f} ms "
            f"| {row['slowest_over_fastest']:.1f} | {row['median_error']:.1%} (at most {row['largest_error']:.1%}) "
            f"| {row['median_error_by_macs']:.1%} (at most {row['largest_error_by_macs']:.1%}) "
            f"| {row['by_macs_over_model']:.1f} |",
            flush=True,
        )
    machine = {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "load_average_before": round(load, 1),
        **{name: version(name) for name in ("torch", "transformers")},
    }
    if arguments.write:
        write_atomically(RESULTS, json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
