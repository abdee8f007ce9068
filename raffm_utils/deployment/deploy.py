"""From a budget to a verified folder in one call."""

from collections.abc import Iterable
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, DataError, DeploymentError
from ..search import choose
from ..space import Budget, Rng, SubmodelConfig, generator, near_the_limit
from ..supernet import Supernet
from ..writing import check_target
from .export import Export, check_formats, export_submodel

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
    rng: Rng | None = None,
    progress: bool = True,
) -> Export:
    """Pick a submodel inside a budget, export it, read it back, and measure it.

    One of `candidates` drawn close to the limits of the budget is chosen by successive halving (`search.choose`) on
    the first half of `examples` validation examples. Every exported file is measured on the second half, which plays
    no part in the choice. With `examples=0` no data is needed: the first draw is taken, and files are compared on
    random inputs only. A limit on the MACs of a text model needs a token count: give a `Supernet` that has one. Raises
    `InfeasibleBudget` or `DeploymentError`, before any work where possible.

    Example:
        deploy("vit-small-fashion-mnist-large-budget", Budget(max_parameters=12e6), "client")
        model = load_submodel("client")
    """
    from tqdm.auto import tqdm

    folder, formats = Path(folder).expanduser(), check_formats(formats)
    check_target(folder)
    if candidates < 1 or examples < 0 or examples == 1:
        raise DeploymentError(
            f"candidates={candidates}, examples={examples}: give at least 1 candidate, and 2 examples or more; or none"
        )
    supernet = checkpoint if isinstance(checkpoint, Supernet) else Supernet.from_pretrained(checkpoint)
    rng = generator(0 if rng is None else rng)
    config, *others = near_the_limit(supernet.space, budget, candidates if examples else 1, rng)
    choosing, measuring = _validation_halves(supernet, examples)
    chosen = "The first one drawn near the limit; no data was looked at"
    if choosing is not None:
        of = f"on the first {len(choosing):,} {choosing.name} validation examples"
        chosen = f"Of {1 + len(others)} drawn near the limit, the most accurate by successive halving {of}"
        config = choose(supernet, [config, *others], choosing, rng=rng, progress=progress).config
    with tqdm(total=2 * len(formats), unit="step", disable=not progress) as bar:
        finished = chain([0], repeat(1))  # what a step begins with is the end of the one before

        def step(what: str) -> None:
            bar.update(next(finished))
            bar.set_description(what)

        export = export_submodel(
            supernet.extract(config),
            folder,
            formats,
            processor=supernet.processor,
            data=measuring,
            calibration=choosing,
            about={**about(supernet, config), "chosen": f"{chosen}; budget: {_limits(budget)}"},
            on_step=step,
        )
        bar.update()
    return export


def about(supernet: Supernet, config: SubmodelConfig) -> dict[str, Any]:
    """The origin of a submodel, for its model card."""
    facts = {
        "checkpoint": supernet.name,
        "fingerprint": supernet.fingerprint(),
        "macs": supernet.cost(config).macs,
        "provenance": dict(supernet.spec.provenance),
    }
    return facts | ({} if supernet.tokens is None else {"tokens": supernet.tokens})


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


def _limits(budget: Budget) -> str:
    given = [f"{name} {value:,.10g}" for name, value in vars(budget).items() if value is not None]
    return ", ".join(given) or "none"
