"""From a budget to a verified folder in one call."""

from collections.abc import Callable, Iterable
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckpointError, DataError, DeploymentError
from ..evaluation import evaluate
from ..files import check_target
from ..space import Budget, SubmodelConfig, near_the_limit
from ..supernet import Supernet
from .export import check_formats, export_submodel

if TYPE_CHECKING:
    from ..data import Split


DEPLOYED_FORMATS = ("safetensors", "onnx", "onnx-int8-dynamic")
CANDIDATES = 6
EXAMPLES = 1000  # one half chooses among the candidates, the other half measures the chosen one


def deploy(
    checkpoint: str | Path | Supernet,
    budget: Budget,
    folder: str | Path,
    *,
    formats: Iterable[str] = DEPLOYED_FORMATS,
    candidates: int = CANDIDATES,
    examples: int = EXAMPLES,
    rng: np.random.Generator | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Pick a submodel inside a budget, export it, read it back, measure it; returns its `submodel.json`.

    Of `candidates` drawn near the limits of the budget, the one with the best accuracy on the first half of
    `examples` validation examples is taken. Every exported file is measured on the second half, which had no
    part in the choice. With `examples=0` no data is needed: the first one drawn is taken, and files are compared on
    made-up inputs only. Raises `InfeasibleBudget` or `DeploymentError`, before any work where that can be known.
    """
    from tqdm.auto import tqdm

    folder, formats = Path(folder), check_formats(formats)
    check_target(folder)
    if candidates < 1 or examples < 0 or examples == 1:
        raise DeploymentError(
            f"candidates={candidates}, examples={examples}: give at least 1 candidate, and 2 examples or more; or none"
        )
    supernet = checkpoint if isinstance(checkpoint, Supernet) else Supernet.from_pretrained(checkpoint)
    configs = near_the_limit(supernet.space, budget, candidates if examples else 1, rng or np.random.default_rng(0))
    choosing, measuring = _validation_halves(supernet, examples)
    with tqdm(total=len(configs) * bool(examples) + 2 * len(formats), unit="step", disable=not progress) as bar:
        finished = chain([0], repeat(1))  # what a step begins with is the end of the one before

        def step(what: str) -> None:
            bar.update(next(finished))
            bar.set_description(what)

        config, chosen = _choose(supernet, configs, choosing, step)
        content = export_submodel(
            supernet.extract(config),
            folder,
            formats,
            processor=supernet.processor,
            data=measuring,
            calibration=choosing,
            about={**about(supernet, config, budget.tokens), "chosen": f"{chosen} {_limits(budget)}"},
            on_step=step,
        )
        bar.update()
    return content


def about(supernet: Supernet, config: SubmodelConfig, tokens: int | None = None) -> dict[str, Any]:
    """Where a submodel comes from, for its card."""
    facts = {
        "checkpoint": supernet.name,
        "fingerprint": supernet.fingerprint,
        "macs": supernet.cost(config, tokens).macs,
        "provenance": dict(supernet.spec.provenance),
    }
    return facts | ({} if supernet.costs.image_tokens or tokens is None else {"tokens": tokens})


def _validation_halves(supernet: Supernet, examples: int) -> "tuple[Split, Split] | tuple[None, None]":
    from ..data import load_split

    if not examples:
        return None, None
    try:
        split = load_split(supernet.spec.dataset, "validation", limit=examples, processor=supernet.processor)
    except (CheckpointError, DataError) as error:
        raise type(error)(f"{error}; or choose without data, by examples=0") from error
    middle = len(split) // 2
    return split.subset(range(middle)), split.subset(range(middle, len(split)))


def _choose(
    supernet: Supernet, configs: list[SubmodelConfig], data: "Split | None", step: Callable[[str], None]
) -> tuple[SubmodelConfig, str]:
    """The best on these examples, and the choice in words."""
    if data is None:
        return configs[0], "The first one drawn near the limit; no data was looked at; budget:"
    results = []
    for number, config in enumerate(configs, start=1):
        step(f"candidate {number} of {len(configs)}")
        results.append(evaluate(supernet.extract(config), data))
    best = max(range(len(configs)), key=lambda i: (results[i].accuracy, -results[i].loss))
    words = f"best accuracy on the first {len(data):,} {data.name} validation examples"
    return configs[best], f"Of {len(configs)} drawn near the limit, the one with the {words}; budget:"


def _limits(budget: Budget) -> str:
    given = [f"{name} {value:,.10g}" for name, value in vars(budget).items() if value is not None]
    return ", ".join(given) or "none"
