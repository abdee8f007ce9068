"""The commands behind the Makefile: `python -m raffm_utils figures | sweep | train | deploy`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .budget import METRICS, Budget
from .checkpoints import BUNDLED_FOLDER, bundled
from .errors import CheckpointError, RaffmError

if TYPE_CHECKING:
    from .supernet import Supernet

RUNS_FOLDER = Path(__file__).resolve().parent.parent / "runs"
TOKENS = 32  # the sentence length that MACs of text models are counted at
PUBLISHED_FIGURE = {"vit-small-fashion-mnist-large-budget": "vit_performance_vs_params"}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m raffm_utils", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    figures_parser = commands.add_parser("figures", help="evaluate a fresh sample of submodels and draw the figures")
    figures_parser.add_argument("--submodels", type=int, default=12, help="fresh submodels of each checkpoint (12)")
    figures_parser.add_argument("--examples", type=int, default=2000, help="test examples for each (2000)")
    figures_parser.add_argument("--seed", type=int, help="draw the same sample again (default: a new one)")
    sweep_parser = commands.add_parser("sweep", help="evaluate many submodels, resumably, for figures/data/")
    sweep_parser.add_argument("name", help="a bundled checkpoint, a folder, or a hub id")
    sweep_parser.add_argument("--submodels", type=int, default=300, help="spread evenly over size (300)")
    sweep_parser.add_argument("--examples", type=int, default=2000, help="test examples for each (2000)")
    train_parser = commands.add_parser("train", help="train a named checkpoint, resumably; without a name, list them")
    train_parser.add_argument("name", nargs="?")
    deploy_parser = commands.add_parser("deploy", help="pick a submodel inside a budget, export and verify it")
    deploy_parser.add_argument("--checkpoint", required=True, help="a bundled checkpoint, a folder, or a hub id")
    for metric in METRICS:
        option = f"--max-{metric.replace('_', '-')}"
        deploy_parser.add_argument(option, type=_amount, metavar="N", help="a limit, such as 12M or 1.5G")
    deploy_parser.add_argument("--tokens", type=int, help="sequence length that MACs of a text model are counted at")
    deploy_parser.add_argument("--out", required=True, type=Path, help="the folder to write: new, or empty")
    deploy_parser.add_argument("--formats", nargs="+", help="by default safetensors onnx onnx-int8-dynamic")
    deploy_parser.add_argument("--examples", type=int, default=1000, help="validation examples (1000; 0: none)")
    options = parser.parse_args(arguments)
    try:
        if options.command == "figures":
            figures(options.submodels, options.examples, options.seed)
        elif options.command == "sweep":
            sweep_checkpoint(options.name, options.submodels, options.examples)
        elif options.command == "deploy":
            limits = {f"max_{metric}": getattr(options, f"max_{metric}") for metric in METRICS}
            budget = Budget(**limits, tokens=options.tokens)
            deploy(options.checkpoint, budget, options.out, options.formats, options.examples)
        else:
            train(options.name)
    except RaffmError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        goes_on = "the same command goes on from here (figures: with the same --seed)"
        print(f"stopped; {'nothing was written' if options.command == 'deploy' else goes_on}", file=sys.stderr)
        return 130
    return 0


def _amount(text: str) -> float:
    """A number that may end in K, M or G."""
    factors = {"K": 1e3, "M": 1e6, "G": 1e9}
    return float(text.rstrip("KMGkmg")) * factors.get(text[-1:].upper(), 1)


def figures(submodels: int, examples: int, seed: int | None) -> None:
    """Evaluate a fresh sample of every bundled checkpoint and draw it over its stored sweep."""
    from .data import load_split
    from .evaluation import read_sweep, spread_over_size, sweep
    from .plotting import FIGURES, plot_accuracy_vs_parameters, save_figure
    from .supernet import Supernet

    seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
    if not (names := bundled()):
        raise CheckpointError(f"no checkpoint in {BUNDLED_FOLDER}: fetch one, or make one with make train NAME=...")
    for name in names:
        supernet = Supernet.from_pretrained(name)
        space = supernet.space
        print(f"{name}: {space.count():,} submodels in the space")
        data = load_split(_dataset(supernet), "test", limit=examples, processor=supernet.processor)
        metric = supernet.family.size_metric
        configs = spread_over_size(space, submodels, np.random.default_rng(seed), metric, TOKENS)
        print(f"evaluating {submodels} of them, drawn with --seed {seed}, on {len(data):,} test examples each")
        path = RUNS_FOLDER / f"live-{name}-{examples}-{seed}.jsonl"
        live = sweep(supernet, configs, data, path, tokens=TOKENS, seed=seed)
        path, fingerprint = FIGURES / "data" / f"{name}.jsonl", supernet.fingerprint
        rows = read_sweep(path)
        stored = [row for row in rows if row.fingerprint == fingerprint]
        if len(stored) < len(rows):
            print(f"{path}: {len(rows) - len(stored)} rows belong to other weights and are left out of the figure")
        ends = {row.config: row for row in stored}
        ax = plot_accuracy_vs_parameters(
            stored,
            title=f"{supernet.family.label} Scaled Model Performance",
            metric=metric,
            live=live,
            full=ends.get(space.largest()),
            smallest=ends.get(space.smallest()),
            count=space.count(),
        )
        figure = ax.get_figure(root=True)
        assert figure is not None
        for path in save_figure(figure, PUBLISHED_FIGURE.get(name, f"{name}_performance_vs_params"), FIGURES):
            print(f"wrote {path}")


def sweep_checkpoint(name: str, submodels: int, examples: int, seed: int = 0) -> None:
    """Evaluate submodels spread evenly over size, and the two ends of the space, into `figures/data/`."""
    from .data import load_split
    from .evaluation import spread_over_size, sweep
    from .plotting import FIGURES
    from .supernet import Supernet

    supernet = Supernet.from_pretrained(name)
    space = supernet.space
    data = load_split(_dataset(supernet), "test", limit=examples, processor=supernet.processor)
    spread = spread_over_size(space, submodels, np.random.default_rng(seed), supernet.family.size_metric, TOKENS)
    path = FIGURES / "data" / f"{supernet.name}.jsonl"
    sweep(supernet, [space.largest(), space.smallest(), *spread], data, path, tokens=TOKENS, seed=seed)


def _dataset(supernet: "Supernet") -> str:
    name = supernet.spec.provenance.get("dataset")
    if not isinstance(name, str):
        raise CheckpointError(
            f"{supernet.folder}: elastic_space.json does not say what data it was trained on: "
            'add "provenance": {"dataset": ...}, or use sweep(...) in Python'
        )
    return name


def train(name: str | None) -> None:
    """Train a named checkpoint, or list the names."""
    from . import recipes

    if name is None:
        print("give a name, as in: make train NAME=" + next(iter(recipes.RECIPES)))
        print("\n".join(f"  {known}" for known in recipes.RECIPES))
        return
    print(f"wrote {recipes.train(name)}")


def deploy(checkpoint: str, budget: Budget, folder: Path, formats: list[str] | None, examples: int) -> None:
    """One call from a budget to a verified folder."""
    from . import deployment

    formats = formats or list(deployment.DEPLOYED_FORMATS)
    content = deployment.deploy(checkpoint, budget, folder, formats=formats, examples=examples)
    print(f"wrote {folder}: {content['parameters']:,} parameters")
    for found in content["formats"].values():
        line = f"  {found['file']:24} {found['bytes'] / 1e6:8.2f} MB"
        if result := found.get("evaluation"):
            interval = f"{result['low']:.1%} to {result['high']:.1%}"
            line += f"  {result['accuracy']:.1%} ({interval}) of {result['examples']:,} validation examples"
        print(line)


if __name__ == "__main__":
    raise SystemExit(main())
