"""The commands behind the Makefile: `python -m raffm_utils figures | sweep | train | deploy`."""

import argparse
import sys
from pathlib import Path

from .errors import RaffmError
from .figures import redraw, sweep_checkpoint, sweep_front
from .space import LATENCY, METRICS, PEAK, Budget


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m raffm_utils", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    figures_parser = commands.add_parser("figures", help="evaluate a fresh sample of submodels and draw the figures")
    figures_parser.add_argument("--submodels", type=int, default=12, help="fresh submodels of each checkpoint (12)")
    figures_parser.add_argument("--examples", type=int, help="test examples for each (those of the stored sweep)")
    figures_parser.add_argument("--seed", type=int, help="draw the same sample again (default: a new one)")
    sweep_parser = commands.add_parser("sweep", help="evaluate many submodels, resumably, for figures/data/")
    sweep_parser.add_argument("name", help="a bundled checkpoint, a folder, or a hub id")
    sweep_parser.add_argument("--submodels", type=int, default=300, help="spread evenly over size (300)")
    sweep_parser.add_argument("--examples", type=int, help="for each (2000; with --front those of the stored sweep)")
    sweep_parser.add_argument(
        "--split",
        choices=("test", "validation"),
        default="test",
        help="validation: what choices are made on; a quarter more submodels are measured, which look promising",
    )
    sweep_parser.add_argument(
        "--ends", action="store_true", help="only the full network, half of it and the smallest, on all of the split"
    )
    sweep_parser.add_argument(
        "--front",
        type=int,
        metavar="N",
        help="only those chosen at up to N sizes by the stored sweep on validation, on test",
    )
    train_parser = commands.add_parser("train", help="train a named checkpoint, resumably; without a name, list them")
    train_parser.add_argument("name", nargs="?")
    train_parser.add_argument("--folder", type=Path, help="where to write it; by default over the bundled one")
    deploy_parser = commands.add_parser("deploy", help="pick a submodel inside a budget, export and verify it")
    deploy_parser.add_argument("--checkpoint", required=True, help="a bundled checkpoint, a folder, or a hub id")
    for metric in (*METRICS, LATENCY, PEAK):
        option = f"--max-{metric.replace('_', '-')}"
        deploy_parser.add_argument(option, type=_amount, metavar="N", help="a limit, such as 12M or 1.5G")
    deploy_parser.add_argument("--tokens", type=int, help="sequence length that a text model's costs are counted at")
    deploy_parser.add_argument("--out", required=True, type=Path, help="the folder to write: new, or empty")
    deploy_parser.add_argument("--formats", nargs="+", help="by default safetensors onnx onnx-int8-dynamic")
    deploy_parser.add_argument("--examples", type=int, default=1000, help="validation examples (1000; 0: none)")
    options = parser.parse_args(arguments)
    try:
        if options.command == "figures":
            redraw(options.submodels, options.examples, options.seed)
        elif options.command == "sweep" and options.front is not None:
            sweep_front(options.name, options.front, options.examples)
        elif options.command == "sweep":
            examples = None if options.ends else options.examples or 2000
            sweep_checkpoint(options.name, None if options.ends else options.submodels, examples, options.split)
        elif options.command == "deploy":
            limits = {f"max_{metric}": getattr(options, f"max_{metric}") for metric in (*METRICS, LATENCY, PEAK)}
            deploy(options.checkpoint, options.tokens, Budget(**limits), options.out, options.formats, options.examples)
        else:
            train(options.name, options.folder)
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


def train(name: str | None, folder: Path | None = None) -> None:
    """Train a named checkpoint into a folder, by default over the bundled one; or list the names."""
    from .federated import named_checkpoints

    if name is None:
        print("give a name, as in: make train NAME=" + next(iter(named_checkpoints.RECIPES)))
        print("\n".join(f"  {known}" for known in named_checkpoints.RECIPES))
        return
    print(f"wrote {named_checkpoints.train(name, folder)}")


def deploy(
    checkpoint: str, tokens: int | None, budget: Budget, folder: Path, formats: list[str] | None, examples: int
) -> None:
    """Pick, export and verify a submodel; a latency limit applies to one example on this machine."""
    from . import deployment
    from .evaluation import LatencyModel
    from .supernet import Supernet
    from .writing import check_target

    check_target(folder)
    supernet = Supernet.from_pretrained(checkpoint, tokens=tokens)
    if budget.max_latency_ms is not None:
        supernet.latency = LatencyModel.fit(supernet)
        print(f"latency of this machine: median error {supernet.latency.held_out_error:.1%} on submodels held out")
    formats = formats or list(deployment.DEPLOYED_FORMATS)
    export = deployment.deploy(supernet, budget, folder, formats=formats, examples=examples)
    print(f"wrote {folder}: {export.parameters:,} parameters")
    for found in export.formats:
        line = f"  {found.file:24} {found.bytes / 1e6:8.2f} MB"
        if result := found.evaluation:
            line += f"  {result} of {result.examples:,} validation examples"
        print(line)


if __name__ == "__main__":
    raise SystemExit(main())
