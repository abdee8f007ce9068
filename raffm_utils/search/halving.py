"""Successive halving: choose among a few submodels by measuring them, the promising ones on more examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from ..evaluation import Difference, Interval, evaluate, right_answers
from ..space import Rng, SubmodelConfig, generator
from ..supernet import Supernet

if TYPE_CHECKING:
    from ..data import Split


MIN_EXAMPLES = 16  # in a rung: fewer would sort out by chance


@dataclass(frozen=True)
class Candidate(Interval):
    """One submodel in one rung; `low` and `high` are the 95 % Wilson interval of `accuracy`.

    `behind` is how it differs from the best of the rung on the same examples, with a 95 % interval.
    """

    config: SubmodelConfig
    loss: float
    behind: Difference


@dataclass(frozen=True)
class Rung:
    """Submodels measured on the same `examples`, from the best to the worst; the first `kept` went on."""

    examples: int
    candidates: tuple[Candidate, ...]
    kept: int


@dataclass(frozen=True)
class Selection:
    """All rungs of a choice. The winner's accuracy is biased, since it was chosen by it: test on other examples."""

    rungs: tuple[Rung, ...]

    @property
    def chosen(self) -> Candidate:
        """The best of the last rung."""
        return self.rungs[-1].candidates[0]

    @property
    def config(self) -> SubmodelConfig:
        """The submodel chosen."""
        return self.chosen.config

    @property
    def measured(self) -> int:
        """The number of pairs of submodel and example that were evaluated."""
        before = (0, *(rung.examples for rung in self.rungs))
        return sum(len(rung.candidates) * (rung.examples - old) for rung, old in zip(self.rungs, before, strict=False))


def choose(
    supernet: Supernet,
    configs: Sequence[SubmodelConfig],
    data: "Split",
    *,
    examples: int | None = None,
    batch_size: int = 128,
    rng: Rng | None = None,
    progress: bool = True,
) -> Selection:
    """Choose the best of a few submodels by successive halving (Karnin et al. 2013) on validation examples.

    Each rung drops the worse half, and those behind the best by a paired interval wholly below 0, and doubles the
    number of examples, up to `examples` (by default all of `data`).
    All submodels in a rung see the same examples, and results carry over: choosing one of 16 costs as much as
    measuring 5 in full. Ties are broken by the lower loss. `rng` shuffles the examples. Raises `DataError` for
    the test split, which must not be used for choosing.

    Example:
        data = load_split("fashion_mnist", "validation", processor=supernet.processor)
        selection = choose(supernet, best_submodels(supernet.space, predictor, budget, 8, rng), data)
        model = supernet.extract(selection.config)
    """
    from tqdm.auto import tqdm

    order, sizes = _plan(len(set(configs)), data, examples, generator(0 if rng is None else rng))
    left, rungs = list(dict.fromkeys(configs)), list[Rung]()
    answers, losses = {config: np.empty(0, dtype=bool) for config in left}, dict.fromkeys(left, 0.0)
    steps = [max(1, -(-len(left) // 2**number)) for number in range(len(sizes))]
    total = sum(count * size for count, size in zip(steps, np.diff([0, *sizes]), strict=True))
    with tqdm(total=int(total), unit="example", disable=not progress) as bar:
        for number, (old, size) in enumerate(zip((0, *sizes), sizes, strict=False), start=1):
            part = data.subset(order[old:size])
            bar.set_description(f"{len(left)} submodels, {size:,} examples")
            for config in left:
                found = evaluate(supernet.extract(config), part, batch_size=batch_size)
                answers[config] = np.concatenate([answers[config], right_answers(found)])
                losses[config] += found.loss * len(part)
                bar.update(len(part))
            left.sort(key=lambda config: (-answers[config].sum(), losses[config]))
            candidates = tuple(
                _candidate(config, answers[config], answers[left[0]], losses[config] / size) for config in left
            )
            half = 1 if number == len(sizes) else -(-len(left) // 2)
            kept = max(place for place, each in enumerate(candidates[:half], 1) if each.behind.high >= 0)
            rungs.append(Rung(size, candidates, kept))
            left = left[:kept]
    return Selection(tuple(rungs))


def _plan(number: int, data: "Split", examples: int | None, rng: np.random.Generator) -> tuple[np.ndarray, list[int]]:
    """The order of the examples, and the cumulative number of them after each rung."""
    if data.split == "test":
        raise DataError(
            f"{data.name}/test cannot choose a submodel, or it will look better there than it is: choose by "
            "load_split(..., 'validation') and test what was chosen once"
        )
    examples = len(data) if examples is None else examples
    if not number or not 1 <= examples <= len(data):
        raise DataError(
            f"{number} submodels on {examples} examples: give at least 1 submodel, and 1 to {len(data)} examples of "
            f"{data.name}/{data.split}"
        )
    rungs = max(1, (number - 1).bit_length())
    sizes = {max(examples >> halvings, min(MIN_EXAMPLES, examples)) for halvings in range(rungs)}
    return rng.permutation(len(data))[:examples], sorted(sizes)


def _candidate(config: SubmodelConfig, right: np.ndarray, best: np.ndarray, loss: float) -> Candidate:
    interval = Interval.wilson(int(right.sum()), len(right))
    return Candidate(**vars(interval), config=config, loss=loss, behind=Difference.of(right, best))
